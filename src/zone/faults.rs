//! What can be wrong with a zone, and what of it a fault is about.

use std::fmt;

use super::builder::LARGEST_SET;
use super::name::Name;
use super::record::RecordType;

/// What keeps a zone from being served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneProblem {
    /// The name that has it.
    pub owner: Name,
    /// What it is.
    pub fault: Fault,
    /// The file and the line of the record that is at fault, if one is, and is from a file.
    pub at: Option<Spot>,
}

/// A file and a line in it; the first is 1.
pub type Spot = (String, usize);

/// The parts of a problem: what tells it from others comes first.
pub(super) type Told = ((Name, Fault), Option<Spot>);

impl From<Told> for ZoneProblem {
    fn from(((owner, fault), at): Told) -> Self {
        Self { owner, fault, at }
    }
}

/// What can be wrong with a zone.
#[derive(Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Fault {
    /// The name is not in the zone.
    #[error("not in the zone {0}; give it to the zone it is in")]
    OutOfZone(Name),
    /// The zone has no SOA record.
    #[error("the zone has no SOA record; it needs one, at its origin")]
    NoSoa,
    /// There is a SOA record below the origin, or a second one.
    #[error("a second SOA record; a zone has one, at its origin")]
    SecondSoa,
    /// The zone has no name servers.
    #[error("the zone has no NS records at its origin; resolvers need at least two")]
    NoNs,
    /// Something stands beside a CNAME record.
    #[error("a CNAME record beside other records; a name that has one has nothing else")]
    BesideCname,
    /// A type that needs more than looking up.
    #[error("DNAME records are not served; give the names below it one by one")]
    Dname,
    /// A type of which no zone has records.
    #[error("{0} is a type of questions or messages, and no zone has records of it; remove them")]
    Meta(RecordType),
    /// The zone is signed.
    #[error(
        "{0} records, and this server neither signs nor serves signed zones; load the zone as it \
             is before it is signed, without a DS record at its parent"
    )]
    Signed(RecordType),
    /// More data than an answer may have.
    #[error(
        "{1} octets of {0} records, which no answer can hold; expected at most {LARGEST_SET} \
             octets, with 12 for each record besides its data"
    )]
    TooLarge(RecordType, usize),
    /// A zone is delegated to a server of which nobody can learn the address.
    #[error("delegated to {0}, which is below it and has no address; add its A or AAAA records")]
    NoGlue(Name),
    /// A name server of the zone, in the zone, has no address.
    #[error("its name server {0} has no address here; add its A or AAAA records")]
    NoAddress(Name),
    /// A name server of the zone is an alias.
    #[error("its name server {0} is an alias; a name server has addresses of its own")]
    ServerIsAlias(Name),
    /// Mail for the name goes to a host without an address.
    #[error(
        "mail goes to {0}, which has no address here; add its A or AAAA records, or end a name of \
             another zone with a dot"
    )]
    NoMailHost(Name),
    /// A record leads to a name of the zone that does not exist.
    #[error(
        "a {0} record leads to {1}, and nothing is there; add it, or end a name of another zone \
             with a dot"
    )]
    NoTarget(RecordType, Name),
    /// A wildcard has NS records.
    #[error("NS records at a wildcard, which mean nothing; delegate names one by one")]
    WildcardCut,
    /// A zone without a SOA record whose name leaves no room for what such a record names.
    #[error("its name has more than 244 octets, so that no SOA record can be made; load a file")]
    NoRoom,
    /// The zone defines what a service steers.
    #[error("{0} records in the zone, and a service steers them; remove one of the two")]
    AlsoSteered(RecordType),
    /// The name is steered by two services.
    #[error("steered by two services; a name has one")]
    SteeredTwice,
    /// A service gives a CNAME record where other records are.
    #[error(
        "a service gives a CNAME record here, beside other records of the zone; it needs \
             addresses at this name"
    )]
    AliasBesideRecords,
    /// The name belongs to a delegated zone.
    #[error("below the delegation at {0}; its name servers answer for it")]
    BelowCut(Name),
    /// A service steers a name at which a zone is delegated.
    #[error("steered, and delegated by NS records; remove one of the two")]
    SteeredCut,
}

impl Fault {
    /// Is it a matter of what the zone has and of what services steer?
    pub fn is_of_service(&self) -> bool {
        match self {
            Self::AlsoSteered(_)
            | Self::SteeredTwice
            | Self::AliasBesideRecords
            | Self::BelowCut(_)
            | Self::SteeredCut => true,
            Self::OutOfZone(_)
            | Self::NoSoa
            | Self::SecondSoa
            | Self::NoNs
            | Self::BesideCname
            | Self::Dname
            | Self::Meta(_)
            | Self::Signed(_)
            | Self::TooLarge(..)
            | Self::NoGlue(_)
            | Self::NoAddress(_)
            | Self::ServerIsAlias(_)
            | Self::NoMailHost(_)
            | Self::NoTarget(..)
            | Self::WildcardCut
            | Self::NoRoom => false,
        }
    }

    /// Is it about a record of this type, which names `target`, at the name that has it?
    pub(super) fn is_about(&self, rtype: RecordType, target: Option<&[u8]>) -> bool {
        let names = |host: &Name| target.is_some_and(|of| of.eq_ignore_ascii_case(host.as_wire()));
        match self {
            Self::SecondSoa => rtype == RecordType::SOA,
            Self::BesideCname => rtype == RecordType::CNAME,
            Self::Dname => rtype == RecordType::DNAME,
            Self::WildcardCut | Self::SteeredCut => rtype == RecordType::NS,
            Self::Meta(of) | Self::Signed(of) | Self::TooLarge(of, _) | Self::AlsoSteered(of) => {
                rtype == *of
            }
            Self::NoGlue(host) | Self::NoAddress(host) | Self::ServerIsAlias(host) => {
                rtype == RecordType::NS && names(host)
            }
            Self::NoMailHost(host) => rtype == RecordType::MX && names(host),
            Self::NoTarget(of, target) => rtype == *of && names(target),
            Self::AliasBesideRecords => true,
            Self::OutOfZone(_)
            | Self::NoSoa
            | Self::NoNs
            | Self::NoRoom
            | Self::SteeredTwice
            | Self::BelowCut(_) => false,
        }
    }
}

impl fmt::Display for ZoneProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.owner, self.fault)
    }
}
