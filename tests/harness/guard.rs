//! Nothing outlives the test process, however it ends.
//!
//! A test that panics drops its farm, which ends every process. A test process that is killed drops nothing; this guard is
//! a process of its own that notices the end of the test process by the end of a pipe, and ends what is left.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The variable that every process of a farm carries, whose value names the farm.
pub const MARK: &str = "HARNESS_FARM";

/// Three rounds: what the killed ones were just starting is found in the next.
const SCRIPT: &str = r#"
cat >/dev/null
for round in 1 2 3; do
    for environ in $(grep -lzxF -- "$1" /proc/[0-9]*/environ 2>/dev/null); do
        pid=${environ#/proc/}
        kill -KILL "${pid%/environ}" 2>/dev/null
    done
done
"#;

/// The guard of one farm.
#[derive(Debug)]
pub struct Guard {
    child: Child,
}

impl Guard {
    /// Starts to watch over the farm with this mark.
    pub fn over(mark: &Path) -> Self {
        let child = outliving(SCRIPT, [format!("{MARK}={}", mark.display())]).expect("there is a shell");
        Self { child }
    }
}

/// A shell with a script that goes on when the test is killed, and sees its end by that of its own standard input.
pub(crate) fn outliving(
    script: &str,
    words: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", script, "outliving"])
        .args(words)
        .env_remove(MARK)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Its `cat` ends by itself with the pipe.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
