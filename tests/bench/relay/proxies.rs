//! HAProxy and nginx with nothing but what a relayed WebSocket needs, in front of one server, plain and by TLS.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;
use hatchery_tests::certs::Certs;
use hatchery_tests::ports::Block;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{Look, until};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// One of them, until it is dropped.
pub(super) struct Proxy {
    child: Child,
    pub(super) plain: SocketAddr,
    pub(super) tls: SocketAddr,
    _ports: Block,
    _dir: TempDir,
}

impl Proxy {
    pub(super) async fn haproxy(certs: &Certs, server: u16) -> anyhow::Result<Self> {
        Self::start("/usr/sbin/haproxy", certs, |plain, tls, dir| {
            let text = format!(
                "global\n  maxconn 4000\n  nbthread 2\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  \
                 timeout server 60s\n  timeout tunnel 1h\nfrontend viewers\n  bind 127.0.0.1:{plain}\n  \
                 bind 127.0.0.1:{tls} ssl crt {dir}/pair.pem\n  default_backend server\nbackend server\n  \
                 server one 127.0.0.1:{server}\n"
            );
            (text, vec!["-db".to_owned(), "-f".to_owned(), format!("{dir}/proxy.conf")])
        })
        .await
    }

    pub(super) async fn nginx(certs: &Certs, server: u16) -> anyhow::Result<Self> {
        Self::start("/usr/sbin/nginx", certs, |plain, tls, dir| {
            let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let paths: String = paths.iter().map(|kind| format!("{kind}_temp_path {dir}/{kind}; ")).collect();
            let text = format!(
                "worker_processes 2; pid {dir}/pid; error_log {dir}/error.log; daemon off;\n\
                 events {{ worker_connections 4000; }}\nhttp {{ access_log off; {paths}\nserver {{\n\
                 listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl;\nssl_certificate {dir}/pair.pem; \
                 ssl_certificate_key {dir}/pair.pem;\nlocation / {{ proxy_pass http://127.0.0.1:{server}; \
                 proxy_http_version 1.1;\nproxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;\n\
                 proxy_buffer_size 64k; proxy_buffers 4 64k; proxy_read_timeout 1h; proxy_send_timeout 1h; }}\n}} }}\n"
            );
            (text, ["-p", dir, "-c", &format!("{dir}/proxy.conf")].map(str::to_owned).to_vec())
        })
        .await
    }

    async fn start(
        program: &str,
        certs: &Certs,
        configure: impl Fn(u16, u16, &str) -> (String, Vec<String>),
    ) -> anyhow::Result<Self> {
        let (dir, ports) = (tempfile::tempdir()?, Block::take());
        let (plain, tls) = (*ports.range(2).start(), *ports.range(2).end());
        let path = dir.path().to_str().context("a plain name")?;
        let pair = ["public.pem", "public.key"].map(|name| fs::read_to_string(certs.file(name)));
        let [pem, key] = pair;
        fs::write(dir.path().join("pair.pem"), pem? + &key?)?;
        let (text, args) = configure(plain, tls, path);
        fs::write(dir.path().join("proxy.conf"), text)?;
        let child = Command::new(program).args(args).stdout(Stdio::null()).spawn();
        let child = child.with_context(|| format!("{program} is installed (tests/run sees to it)"))?;
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let proxy = Self { child, plain: at(plain), tls: at(tls), _ports: ports, _dir: dir };
        until(&format!("{program} listens"), TIMEOUT, async || {
            let connected = TcpStream::connect(proxy.tls).await;
            Look::when(connected.is_ok(), || format!("{connected:?}"))
        })
        .await;
        Ok(proxy)
    }

    /// The processes that serve, which is not always the one that was started.
    pub(super) fn pids(&self) -> Vec<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|pid| pid.parse().ok()).chain([id]).collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // nginx ends its workers on TERM, not on KILL.
        hatchery_tests::processes::signal(self.child.id(), rustix::process::Signal::TERM);
        self.child.wait().ok();
    }
}
