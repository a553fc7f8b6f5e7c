//! The layouts, by the program that they belong to.

pub(crate) mod mirror;
pub(crate) mod relay;
pub(crate) mod steer;
pub(crate) mod tunnel;
