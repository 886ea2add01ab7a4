//! A piece of network that can be disturbed: what one process sends to another goes through here.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How it is with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Everything passes at once.
    Good,
    /// Every piece is held this long.
    Slow(Duration),
    /// Connections stay, and nothing passes; what was sent arrives when it is good again.
    Hole,
    /// Connections break, and new ones break at once.
    Cut,
}

/// A listener that passes connections on.
#[derive(Debug)]
pub struct Link {
    /// Between whom.
    pub name: String,
    /// Where it listens.
    pub addr: SocketAddr,
    condition: watch::Sender<Condition>,
    task: JoinHandle<()>,
}

impl Link {
    /// A good link to this address, whether somebody listens there or not.
    pub async fn to(target: SocketAddr, name: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let addr = listener.local_addr().expect("it listens");
        let (condition, watched) = watch::channel(Condition::Good);
        let task = tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                if *watched.borrow() != Condition::Cut {
                    tokio::spawn(pass_on(near, target, watched.clone()));
                }
            }
        });
        Self { name, addr, condition, task }
    }

    /// Makes it so from now on.
    pub fn becomes(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass_on(near: TcpStream, target: SocketAddr, watched: watch::Receiver<Condition>) {
    let Ok(far) = TcpStream::connect(target).await else { return };
    near.set_nodelay(true).ok();
    far.set_nodelay(true).ok();
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    // The end of one direction is the end of both: nobody here closes one alone.
    tokio::select! {
        () = pump(near_read, far_write, watched.clone()) => {}
        () = pump(far_read, near_write, watched) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut watched: watch::Receiver<Condition>) {
    let mut cut = watched.clone();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            _ = cut.wait_for(|condition| *condition == Condition::Cut) => 0,
        };
        if read == 0 {
            return;
        }
        loop {
            let now = *watched.borrow_and_update();
            match now {
                Condition::Good => break,
                Condition::Slow(by) => {
                    sleep(by).await;
                    break;
                }
                Condition::Hole if watched.changed().await.is_ok() => {}
                Condition::Hole | Condition::Cut => return,
            }
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
