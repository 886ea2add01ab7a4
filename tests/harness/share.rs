//! A share that can hang: a directory behind a file system of its own (`bindfs`), whose server can be stopped. Whatever
//! looks at it then waits in the kernel, as it would for an NFS server that is gone.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::processes;
use crate::skip::skipped;
use crate::wait::{Look, TIMEOUT, until};

/// A directory that is reached through a server.
#[derive(Debug)]
pub struct Share {
    server: Child,
    mount: PathBuf,
}

impl Share {
    /// Shows `directory` at `mount`. `None` where this user may not mount anything; says so.
    pub async fn of(directory: &Path, mount: &Path) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            skipped("a share", "it needs root and /dev/fuse");
            return None;
        }
        for path in [directory, mount] {
            std::fs::create_dir_all(path).expect("a directory can be made");
        }
        let server = Command::new("bindfs")
            .args(["-f", "-o", "attr_timeout=0,entry_timeout=0,negative_timeout=0"])
            .args([directory, mount])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("bindfs is installed (tests/run sees to it)");
        let share = Self { server, mount: mount.to_owned() };
        until("the share is mounted", TIMEOUT, async || {
            let mounts = std::fs::read_to_string("/proc/self/mounts").expect("there is /proc");
            let path = share.mount.to_str().expect("a plain name");
            Look::when(mounts.contains(path), || mounts)
        })
        .await;
        Some(share)
    }

    /// Whatever looks at it waits from now on.
    pub fn hangs(&self) {
        processes::signal(self.server.id(), Signal::STOP);
    }

    /// It answers again.
    pub fn answers(&self) {
        processes::signal(self.server.id(), Signal::CONT);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.answers();
        // Lazily: processes of the test may still have it open.
        Command::new("umount").arg("-l").arg(&self.mount).status().ok();
        self.server.kill().ok();
        self.server.wait().ok();
    }
}
