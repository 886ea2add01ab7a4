//! What the stream cache server's exit codes mean.
//!
//! Codes and texts are the vendor's own: the table in the utilities of its Node server (2025.1), in the order of the
//! enumeration in the executable.

/// The vendor's text for an exit code of `ts3d_sc_server`; `unknown exit-code` for a code that the vendor does not list.
///
/// ```
/// assert_eq!(model::vendor::exit_text(6), "invalid license");
/// ```
#[must_use]
pub fn exit_text(code: i32) -> &'static str {
    match code {
        0 => "success",
        1 => "unexpected exit",
        2 => "invalid command line argument",
        3 => "internal error",
        4 => "failed to initialize the stream-cache",
        5 => "failed to initialize the curl library",
        6 => "invalid license",
        7 => "invalid license file",
        8 => "service-respawn failed",
        9 => "unable to get service-respawn exit-code",
        _ => "unknown exit-code",
    }
}
