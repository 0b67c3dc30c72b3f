//! The host's functions that guests call, where they are not the stock ones.

pub(super) mod clock;
pub(super) mod files;
pub(super) mod listing;
pub(super) mod lists;
pub(super) mod net;
pub(super) mod paths;
pub(super) mod preview1;
pub(super) mod streams;
