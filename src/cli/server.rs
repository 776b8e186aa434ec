//! A running server, as whoever asks it sees it.

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::blocking::{Client, RequestBuilder, Response};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Failed;
use crate::server::causes;
use crate::server::http::SEND_TOKEN;

/// Which server, and who asks.
#[derive(clap::Args)]
pub(super) struct Whom {
    /// The server's HTTP address [default: http://127.0.0.1:8053].
    #[arg(long, value_name = "URL", global = true)]
    server: Option<String>,
    /// Its Unix socket, instead: who may open it needs no token [env, without --server:
    /// MERIDIAN_SOCKET].
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// A file with a token on its first line.
    #[arg(long, value_name = "FILE", env = "MERIDIAN_TOKEN_FILE", global = true)]
    token_file: Option<PathBuf>,
}

/// A running server.
pub(super) struct Server {
    client: Client,
    base: String,
    socket: Option<PathBuf>,
    token: Option<String>,
    /// How another one is named.
    other: &'static str,
}

/// The address that a server has if nothing else is said.
const USUAL: &str = "http://127.0.0.1:8053";

fn is_http(url: &str) -> bool {
    url.starts_with("http://") || url.starts_with("https://")
}

/// Where the socket stands if neither option is given: what is set for all commands does not go
/// over what is said with one.
const SOCKET: &str = "MERIDIAN_SOCKET";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Server {
    pub(super) fn of(whom: Whom) -> Result<Self, Failed> {
        let Whom { server, socket, token_file } = whom;
        let token = token_file.map(|file| first_token(&file)).transpose()?;
        if server.is_some() && socket.is_some() {
            let told = "error: both `--server` and `--socket`; expected one of them".to_owned();
            return Err(Failed::with(2, told));
        }
        if let Some(url) = server.as_ref().filter(|url| !is_http(url)) {
            let told = format!("error: `--server {url}` is no URL; expected one such as {USUAL}");
            return Err(Failed::with(2, told));
        }
        let usual = || env::var_os(SOCKET).filter(|path| !path.is_empty()).map(PathBuf::from);
        let socket = socket.or_else(|| if server.is_none() { usual() } else { None });
        let other = match socket {
            Some(_) => "`--socket` names another one",
            None => "`--server` names another address",
        };
        Self::new(server.as_deref().unwrap_or(USUAL), socket, (token, other))
    }

    /// The demo at this URL, which asks nobody who they are.
    pub(super) fn demo(url: &str) -> Result<Self, Failed> {
        Self::new(url, None, (None, "`--http-port` names another port"))
    }

    fn new(
        url: &str,
        socket: Option<PathBuf>,
        (token, other): (Option<String>, &'static str),
    ) -> Result<Self, Failed> {
        // A library's TLS needs its provider, also where no TLS is spoken.
        let _installed_already = rustls::crypto::ring::default_provider().install_default();
        // No proxy of the environment: the token is the server's.
        let mut client = Client::builder().timeout(PATIENCE).no_proxy();
        let mut base = url.trim_end_matches('/').to_owned();
        if let Some(socket) = &socket {
            // The path is the whole address; the name is never looked up.
            client = client.unix_socket(socket.clone());
            "http://meridian".clone_into(&mut base);
        }
        Ok(Self { client: client.build()?, base, socket, token, other })
    }

    pub(super) fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, Failed> {
        let url = format!("{}{path}", self.base);
        let response = self.answer(&url, self.client.get(&url).query(query))?;
        Ok(response.json()?)
    }

    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Response, Failed> {
        let url = format!("{}{path}", self.base);
        let method = method.parse().unwrap_or_default();
        self.answer(&url, self.client.request(method, &url).json(body))
    }

    fn answer(&self, url: &str, request: RequestBuilder) -> Result<Response, Failed> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let (client, request) = request.build_split();
        let request = request?;
        let is_change = *request.method() != Method::GET;
        let response = client.execute(request);
        let response = response.map_err(|error| self.unreachable(url, is_change, error))?;
        if response.status().is_success() { Ok(response) } else { Err(refused(response)) }
    }

    /// Nobody answers there, and why.
    fn unreachable(&self, url: &str, is_change: bool, error: reqwest::Error) -> Failed {
        let at = self.socket.as_ref().map_or(url.to_owned(), |socket| socket.display().to_string());
        if !error.is_connect() && (error.is_timeout() || is_change) {
            let then = match is_change {
                true => {
                    "; whether it was done, or will be, is not known: see `meridian ctl overrides` \
                     and `ctl writers` before it is said again"
                }
                false => "",
            };
            let why = match error.is_timeout() {
                true => format!("within {} s", PATIENCE.as_secs()),
                false => format!("({})", causes(&error.without_url())),
            };
            let told = format!("error: {at} is there, and has not answered {why}{then}");
            return Failed { is_unheard: true, ..Failed::new(told) };
        }
        let why = causes(&error.without_url());
        let told = advice(&why)
            .unwrap_or_else(|| format!("{why}; is Meridian running there? {}", self.other));
        Failed { is_unheard: true, ..Failed::new(format!("error: cannot reach {at}: {told}")) }
    }
}

/// What to do about an error that says little to those who do not know how TLS is done.
fn advice(why: &str) -> Option<String> {
    let is = |what| why.contains(what);
    if is("invalid HTTP version parsed") {
        return Some("it speaks no HTTP, but maybe TLS: then use `https://`".to_owned());
    }
    if is("CaUsedAsEndEntity") {
        let what = "its certificate is a CA's, which no server may show; it needs one that the CA \
                    has signed, or that is none itself (basicConstraints CA:FALSE)";
        return Some(what.to_owned());
    }
    let trusted = env::var_os(TRUSTED).map(PathBuf::from).filter(|_| is("UnknownIssuer"))?;
    let file = trusted.display();
    Some(match std::fs::metadata(&trusted) {
        Ok(_) => format!("its certificate is of no CA in {file} ({TRUSTED})"),
        Err(error) => format!("no CA is trusted, as {TRUSTED} names {file}: {error}"),
    })
}

/// Where the CAs are read from, instead of the system's.
const TRUSTED: &str = "SSL_CERT_FILE";

/// What the server has against a request.
fn refused(response: Response) -> Failed {
    let status = response.status();
    let body: Result<serde_json::Value, _> = response.json();
    let reason = body.ok().and_then(|body| Some(as_option(body.get("error")?.as_str()?)));
    let told = reason.unwrap_or_else(|| format!("the server says {status}"));
    // One that stops may be followed by another one.
    let is_unheard = status == StatusCode::SERVICE_UNAVAILABLE;
    Failed { is_unheard, ..Failed::new(format!("error: {told}")) }
}

/// A reason with the API's keys as the options that set them.
fn as_option(reason: &str) -> String {
    let (send, name) = (SEND_TOKEN, "`--token-file` or MERIDIAN_TOKEN_FILE names a file with one");
    let reason = reason.replace(send, name);
    let keys = ["force", "fenced"];
    keys.iter()
        .fold(reason, |reason, key| reason.replace(&format!("`{key}`"), &format!("`--{key}`")))
}

/// The last word of the first line: `TOKEN`, or `NAME TOKEN` as the server's file has it.
fn first_token(file: &Path) -> Result<String, Failed> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failed::new(format!("error: the token file {shown}: {error}")))?;
    let token = text.lines().next().and_then(|line| line.split_whitespace().last());
    let token = token.ok_or_else(|| Failed::new(format!("error: {shown} holds no token")))?;
    Ok(token.to_owned())
}
