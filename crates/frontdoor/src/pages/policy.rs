//! What a page may do once it is in a browser (`Content-Security-Policy` and its kin). Each page gets no more than it is for; a file
//! without a policy cannot be served.

/// What a file is loaded for, and what it may do there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The dashboard: it can drain nodes, so nothing runs in it but what is served here.
    Operator,
    /// The demo: a web client, which connects to nodes under any name.
    Client,
    /// Where the vendor's viewer runs, fetched from wherever its user keeps it. The sandbox takes its origin away: to the
    /// front door it is a page from elsewhere, which may do no more than any other.
    Stage,
    /// For pages of any origin, the sandboxed one included.
    Library,
    /// A part of the pages above.
    Part,
}

/// Fixed lines of an answer's head.
type Lines = &'static [(&'static str, &'static str)];

impl Policy {
    pub(super) fn headers(self) -> Lines {
        match self {
            Self::Operator => &[
                (
                    "content-security-policy",
                    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
                ),
                ("cross-origin-resource-policy", "same-origin"),
            ],
            Self::Client => &[
                (
                    "content-security-policy",
                    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                     connect-src 'self' ws: wss:; frame-src 'self'; base-uri 'none'; form-action 'none'; \
                     frame-ancestors 'none'",
                ),
                ("cross-origin-resource-policy", "same-origin"),
            ],
            Self::Stage => &[
                (
                    "content-security-policy",
                    "sandbox allow-scripts allow-pointer-lock; default-src 'none'; \
                     script-src http: https: blob: 'unsafe-eval'; worker-src blob:; \
                     style-src http: https: 'unsafe-inline'; img-src http: https: data: blob:; \
                     font-src http: https: data:; connect-src http: https: ws: wss: data: blob:; \
                     base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
                ),
                ("cross-origin-resource-policy", "same-origin"),
            ],
            Self::Library => &[
                ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
                ("access-control-allow-origin", "*"),
                ("cross-origin-resource-policy", "cross-origin"),
            ],
            Self::Part => &[
                ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
                ("cross-origin-resource-policy", "same-origin"),
            ],
        }
    }
}
