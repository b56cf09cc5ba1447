//! The part of IAM v3 that clients call on their own.

pub(super) mod domains;
pub(super) mod projects;
pub(super) mod tokens;
pub(super) mod users;
