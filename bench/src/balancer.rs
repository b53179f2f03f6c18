//! One address for several hubs: a connection goes to the next one that takes it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type Targets = Arc<Mutex<Vec<SocketAddr>>>;

/// Ends with its handle.
pub(crate) struct Balancer {
    address: SocketAddr,
    targets: Targets,
    _work: JoinSet<()>,
}

impl Balancer {
    pub(crate) async fn start(targets: &[SocketAddr]) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let targets = Targets::new(Mutex::new(targets.to_vec()));
        let mut work = JoinSet::new();
        work.spawn(accept(listener, Arc::clone(&targets)));
        Ok(Self { address, targets, _work: work })
    }

    /// From now on; connections stay where they are.
    pub(crate) fn set(&self, targets: &[SocketAddr]) {
        *self.targets.lock().unwrap_or_else(PoisonError::into_inner) = targets.to_vec();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn accept(listener: TcpListener, targets: Targets) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let next = {
            let mut targets = targets.lock().unwrap_or_else(PoisonError::into_inner);
            let next = targets.clone();
            targets.rotate_left(1);
            next
        };
        connections.spawn(carry(near, next));
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut near: TcpStream, targets: Vec<SocketAddr>) {
    for target in targets {
        if let Ok(mut far) = TcpStream::connect(target).await {
            // Either side may have gone already; then the copying ends at once.
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            return;
        }
    }
}
