//! Every promise and every face, over real sockets.

mod cli;
mod crash;
mod examples;
mod hidden;
mod hostile;
mod keyed;
mod process;
mod resume;
mod shutdown;
mod size;
mod smoke;
mod spokes;
mod stalled;
mod tree;
mod unread;
