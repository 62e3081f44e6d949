//! Folder remotes: folders of this machine that a worker keeps in step with a user's tree.
//!
//! Invariant: what is not proved absent is unknown, and what may be somebody's only copy is never unlinked.

pub mod clash;
pub mod folder;
pub mod hands;
pub mod identity;
pub mod replace;
pub mod scan;

pub use identity::{Error, Lost, Placement, Roots, queue, register_check};
