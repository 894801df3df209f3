//! `docs/walk.md`: a new user's way from an empty machine to an empty machine does what the page says, command by command.
//!
//! `LB_UPDATE_GOLDEN=1 cargo xtask test walk` writes what the commands of part 1 print anew; the diff is then the review.

mod cluster;
mod machine;
mod page;
