//! A DNS check: one query over UDP, and whether its answer is what is expected.

use std::hash::BuildHasher;
use std::net::SocketAddr;

use hickory_proto::op::{Message, MessageType, Query};
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
            // Who refuses may leave the question out.
            Ok(answer) if !answer.queries.is_empty() && answer.queries != query.queries => {}
            // The query itself, sent back.
            Ok(answer) if answer.metadata.message_type != MessageType::Response => {
                return Err(Failure::Malformed);
            }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What is made of a server that turns the query into `answer`.
    async fn asked(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Result<(), Failure> {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, from)) = server.recv_from(&mut buffer).await {
                server.send_to(&answer(&buffer[..length]), from).await.unwrap();
            }
        });
        let name = "www.example.com.".to_owned();
        let check = DnsCheck { name, rtype: 1, rcodes: vec![0], addresses: Vec::new() };
        ask(address, &check, Deadline(tokio::time::Instant::now() + Duration::from_secs(5))).await
    }

    /// The query with its head as that of an answer with this response code.
    fn answered(query: &[u8], rcode: u8) -> Vec<u8> {
        [&query[..2], &[0x80 | query[2], rcode], &query[4..]].concat()
    }

    #[tokio::test]
    async fn an_answer_is_one_that_says_so_with_its_question_or_without() {
        assert_eq!(asked(|query| answered(query, 0)).await, Ok(()));
        assert_eq!(asked(<[u8]>::to_vec).await, Err(Failure::Malformed), "the query");
        let bare = |query: &[u8]| [&answered(query, 5)[..4], &[0; 8]].concat();
        assert_eq!(asked(bare).await, Err(Failure::Rcode(5)));
    }
}
