//! How the process ends: the vendor's exit codes, in the vendor's numbering, and the line that its server writes before each. Agents
//! read both.

/// An exit code and the name the vendor gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A regular end: the viewer left, or none came in time.
    Success,
    /// An argument is missing, unknown or malformed.
    CommandLineParse,
    /// Something inside the server failed.
    InternalError,
    /// The stream cache, which owns the WebSocket port, could not start.
    ScInitFailed,
    /// The licence was read and is not valid.
    BadLicense,
    /// The licence file could not be read.
    BadLicenseFile,
    /// A code that a test asked for.
    Other(u8),
}

impl Exit {
    /// The number the parent process sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::CommandLineParse => 2,
            Self::InternalError => 3,
            Self::ScInitFailed => 4,
            Self::BadLicense => 6,
            Self::BadLicenseFile => 7,
            Self::Other(code) => code,
        }
    }
}

/// The line that a server writes before it exits with this code. The texts are the vendor's (see `model::vendor`), but for
/// code 4, where it is the line that a busy port causes.
pub(crate) fn last_words(code: u8) -> &'static str {
    match code {
        0 => "success",
        1 => "unexpected exit",
        2 => "invalid command line argument",
        3 => "internal error",
        4 => "Can't create lws context.",
        5 => "failed to initialize the curl library",
        6 => "invalid license",
        7 => "invalid license file",
        8 => "service-respawn failed",
        9 => "unable to get service-respawn exit-code",
        _ => "unknown exit-code",
    }
}

/// Why the server ends early, and its exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(crate) fn command_line(message: impl Into<String>) -> Self {
        Self::new(Exit::CommandLineParse, message)
    }
}
