//! What the tests of the sources share.

pub(crate) mod apiserver;
pub(crate) mod relay;
