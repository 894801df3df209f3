// SPDX-License-Identifier: Apache-2.0
//! Set-up, build, demo, tests and checks.
fn main() {}
