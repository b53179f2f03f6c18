//! The SDK over real sockets, against a fake of the other end of the wire.

mod calls;
mod hostile;
mod hub;
mod keyed;
mod reconnect;
mod serving;
mod streams;
mod tls;
