//! Class CH: what the server says of itself, if its operator wants it said (RFC 4892).

use super::Rcode;
use super::message::{Message, Section};
use super::name::CLASS_CH;
use super::receive::Request;
use super::resolve::Resolved;
use crate::snapshot::Snapshot;
use crate::zone::{Rdata, RecordType};

/// Names by what they tell: the server's software, and which server it is.
const VERSION: [&[u8]; 2] = [b"\x07version\x04bind\0", b"\x07version\x06server\0"];
const SERVER: [&[u8]; 2] = [b"\x02id\x06server\0", b"\x08hostname\x04bind\0"];

/// Writes the text for the names above, or refuses.
pub(super) fn resolve(
    snapshot: &Snapshot,
    request: &Request<'_>,
    message: &mut Message<'_>,
) -> Resolved {
    let identity = &snapshot.plan().identity;
    let name = &request.question.name;
    let text = if VERSION.contains(&name.as_wire()) {
        identity.version.as_deref()
    } else if SERVER.contains(&name.as_wire()) {
        identity.id_server.as_deref()
    } else {
        None
    };
    let wanted = matches!(RecordType(request.question.rtype), RecordType::TXT | RecordType::ANY);
    let Some(text) = text.filter(|_| wanted) else {
        return Resolved::only(Rcode::Refused);
    };
    // A text that is this server's own fits; one that is not cached is never out of date.
    let rdata = Rdata::strings(&[text.as_bytes()]);
    let fixed = (RecordType::TXT.0, CLASS_CH, 0);
    let written = message.one(Section::Answer, name.as_wire(), fixed, &rdata);
    message.required(written);
    Resolved { authoritative: true, ..Resolved::only(Rcode::NoError) }
}
