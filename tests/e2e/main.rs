//! Every promise and every face, over real sockets.

mod hidden;
mod resume;
mod size;
mod smoke;
mod stalled;
mod unread;
