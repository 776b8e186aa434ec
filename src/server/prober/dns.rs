//! A DNS check: one query over UDP, and whether its answer is what is expected.

use std::hash::BuildHasher;
use std::net::SocketAddr;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_proto::serialize::binary::BinDecodable;
use tokio::net::UdpSocket;

use super::Deadline;
use crate::health::{DnsCheck, Failure, Stage};

pub(super) async fn ask(
    address: SocketAddr,
    check: &DnsCheck,
    deadline: Deadline,
) -> Result<(), Failure> {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = deadline.hold(Stage::Connect, UdpSocket::bind(any)).await?;
    // Connected, it takes answers of the target alone, and hears that nobody listens there.
    deadline.hold(Stage::Connect, socket.connect(address)).await?;
    let name = Name::from_ascii(&check.name).map_err(|_| Failure::Local)?;
    let mut query = Message::query();
    let random = std::hash::RandomState::new().hash_one(0u8);
    query.metadata.id = u16::try_from(random & 0xffff).unwrap_or_default();
    query.add_query(Query::query(name, RecordType::from(check.rtype)));
    let octets = query.to_vec().map_err(|_| Failure::Local)?;
    deadline.hold(Stage::Reply, socket.send(&octets)).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = deadline.hold(Stage::Reply, socket.recv(&mut buffer)).await?;
        let answer = Message::from_bytes(buffer.get(..length).unwrap_or_default());
        match answer {
            // An answer to something else: the right one may still come.
            Ok(answer) if answer.metadata.id != query.metadata.id => {}
            Ok(answer) if answer.queries != query.queries => {}
            Ok(answer) => return judge(&answer, check),
            Err(_) => return Err(Failure::Malformed),
        }
    }
}

fn judge(answer: &Message, check: &DnsCheck) -> Result<(), Failure> {
    let rcode = u16::from(answer.metadata.response_code);
    if !check.rcodes.contains(&rcode) {
        return Err(Failure::Rcode(rcode));
    }
    let mut addresses = answer.answers.iter().filter_map(|record| match &record.data {
        RData::A(ip) => Some(ip.0.into()),
        RData::AAAA(ip) => Some(ip.0.into()),
        _ => None,
    });
    let is_expected =
        check.addresses.is_empty() || addresses.any(|ip| check.addresses.contains(&ip));
    if is_expected { Ok(()) } else { Err(Failure::TextMissing) }
}
