// SPDX-License-Identifier: Apache-2.0
//! `lb-agent`.
fn main() {}
