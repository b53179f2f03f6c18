//! Every promise and every face, over real sockets.

mod size;
mod smoke;
mod stalled;
