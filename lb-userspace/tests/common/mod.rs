//! What the tests of the sources share.

pub(crate) mod relay;
