//! Who may ask, and who may change.
//!
//! Whoever has the Unix socket's permissions may do everything. Over the network a change needs a
//! bearer token (RFC 6750) from the file of tokens, and reading needs one too if it is not open.
//! The file is read at each use: a token that is taken out of it counts no more.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::Refusal;
use crate::server::files::read;
use crate::server::tokens::{NO_TOKEN, tokens};

/// The way by which a request came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Over the network.
    Network,
    /// Over the Unix socket, from a process of this user.
    Socket(Option<u32>),
}

/// By what a change is attributed: the name of a token, or a user of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Caller(pub(super) String);

/// The rules.
#[derive(Debug)]
pub(super) struct Guard {
    /// The file of tokens: on each line one, after the name of who has it.
    pub(super) tokens: Option<PathBuf>,
    /// Whether reading needs no token.
    pub(super) open: bool,
}

/// What is told to everybody: load balancers and supervisors carry no token, nor does a browser
/// until the page, which knows nothing itself, has asked for one.
pub(super) const FOR_ALL: [&str; 3] = ["/", "/healthz", "/readyz"];

/// What to do about a token that is missing.
pub(crate) const SEND_TOKEN: &str = "send `Authorization: Bearer TOKEN`";

/// Lets a request through, or tells what it lacks.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_free = is_reading && (guard.open || FOR_ALL.contains(&request.uri().path()));
    let way = request.extensions().get::<Way>().copied().unwrap_or(Way::Network);
    let caller = match way {
        Way::Socket(user) => {
            let user = user.map_or("somebody".to_owned(), |user| format!("uid {user}"));
            Some(Caller(user))
        }
        Way::Network if is_free => None,
        Way::Network => match identify(&guard, token(&request)).await {
            Ok(caller) => Some(caller),
            Err(reason) => return refused(reason),
        },
    };
    if let Some(caller) = caller {
        request.extensions_mut().insert(caller);
    }
    next.run(request).await
}

fn refused(reason: String) -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"meridian\"")];
    (challenge, Refusal::unauthorized(reason)).into_response()
}

/// The token that a request carries.
fn token(request: &Request) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    // RFC 9110 §11.1.
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim().to_owned())
}

/// Whose token that is.
async fn identify(guard: &Guard, given: Option<String>) -> Result<Caller, String> {
    let Some(file) = guard.tokens.clone() else {
        let what = "over the network this needs a token, and `http.tokens` names no file of them; \
                    the Unix socket `http.socket` needs none";
        return Err(what.to_owned());
    };
    let given = given.ok_or_else(|| format!("this needs a token: {SEND_TOKEN}"))?;
    let known = tokio::task::spawn_blocking(move || read(&file)).await;
    let known = known.map_err(|error| error.to_string())?;
    let known = known.map_err(|reason| format!("the file of tokens: {reason}"))?;
    let known = String::from_utf8_lossy(&known);
    let known = tokens(&known);
    let known = known.map_err(|line| format!("the file of tokens, line {line}: {NO_TOKEN}"))?;
    owner(&known, &given).ok_or_else(|| "unknown token".to_owned())
}

/// Who has the token `given`. How long that takes tells nothing but how many tokens there are.
fn owner(known: &[(&str, &str)], given: &str) -> Option<Caller> {
    known.iter().fold(None, |found, (name, token)| {
        let is_it = !given.is_empty() && bool::from(token.as_bytes().ct_eq(given.as_bytes()));
        if is_it { Some(Caller((*name).to_owned())) } else { found }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_owner_s_and_nothing_else_is_a_token() {
        let known = tokens("# name token\nalice s3cret\n bob\thunter2 \n\n").unwrap();
        let owner = |given| owner(&known, given).map(|caller| caller.0);
        assert_eq!(owner("s3cret").as_deref(), Some("alice"));
        assert_eq!(owner("hunter2").as_deref(), Some("bob"));
        for wrong in ["", "s3cre", "s3cret2", "alice", "token", "# name"] {
            assert_eq!(owner(wrong), None, "{wrong:?}");
        }
    }
}
