//! Every promise and every face, over real sockets.

mod cli;
mod examples;
mod hidden;
mod process;
mod resume;
mod shutdown;
mod size;
mod smoke;
mod stalled;
mod unread;
