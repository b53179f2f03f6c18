//! TCP in between: one that balances over hubs, one that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// One address for several: takes the next one that answers.
pub(super) struct Balancer {
    address: SocketAddr,
    work: JoinHandle<()>,
}

impl Balancer {
    pub(super) async fn start(ports: Vec<u16>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let next = Arc::new(AtomicUsize::new(0));
        let work = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (ports, next) = (ports.clone(), Arc::clone(&next));
                tokio::spawn(async move {
                    for _ in 0..ports.len() {
                        let port = ports[next.fetch_add(1, Ordering::Relaxed) % ports.len()];
                        if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
                            let _ended = (near.set_nodelay(true), far.set_nodelay(true));
                            let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                            return;
                        }
                    }
                });
            }
        });
        Ok(Self { address, work })
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// What a cable can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Whole,
    /// Connections are closed and refused, as when a server is down.
    Down,
    /// Nothing gets through and nobody is told, as when a network is cut.
    Silent,
}

/// A cable to a server.
pub(super) struct Cable {
    port: u16,
    state: watch::Sender<Wire>,
    work: JoinHandle<()>,
}

impl Cable {
    pub(super) async fn to(server: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state = watch::Sender::new(Wire::Whole);
        let watched = state.clone();
        let work = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, server, watched.subscribe()));
            }
        });
        Ok(Self { port, state, work })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn set(&self, wire: Wire) {
        self.state.send_replace(wire);
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.work.abort();
    }
}

async fn carry(near: TcpStream, server: u16, mut state: watch::Receiver<Wire>) {
    if *state.borrow() == Wire::Down {
        return;
    }
    if state.wait_for(|wire| *wire != Wire::Silent).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let _ended = (near.set_nodelay(true), far.set_nodelay(true));
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (near.into_split(), far.into_split());
    let down = {
        let mut state = state.clone();
        async move {
            let _closed = state.wait_for(|wire| *wire == Wire::Down).await;
        }
    };
    tokio::select! {
        () = down => {}
        () = pass(&mut near_read, &mut far_write, state.clone()) => {}
        () = pass(&mut far_read, &mut near_write, state) => {}
    }
}

async fn pass(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    mut state: watch::Receiver<Wire>,
) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if state.wait_for(|wire| *wire != Wire::Silent).await.is_err() {
            return;
        }
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                // What was read while the cable was cut waits, too.
                if state.wait_for(|wire| *wire != Wire::Silent).await.is_err() {
                    return;
                }
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
