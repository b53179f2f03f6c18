//! Every promise and every face, over real sockets.

mod smoke;
mod stalled;
