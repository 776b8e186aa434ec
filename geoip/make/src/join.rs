//! The full files as one, in the layout that servers read which know no flat files.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use maxminddb::Reader;
use meridian_geoip_make::Writer;

use crate::derive::value;
use crate::full::{Network, for_each};

/// Every network and its place.
pub(crate) fn join(v4: &Reader<Vec<u8>>, v6: &Reader<Vec<u8>>) -> Result<Vec<u8>, String> {
    let description = "IP Geolocation by DB-IP (https://db-ip.com), CC BY 4.0";
    let mut writer = Writer::new("Joined-City", description, v4.metadata().build_epoch);
    let mut insert = |first: IpAddr, of: &Network<'_>| {
        let record = &of.record;
        if let (Some((country, at)), Ok(net)) = (record.place(), IpNet::new(first, of.length)) {
            writer.insert(net, &value(country, record.state1, record.city, at));
        }
    };
    for_each(v4, |of| {
        if let Ok(first) = u32::try_from(of.first) {
            insert(Ipv4Addr::from(first).into(), &of);
        }
    })?;
    for_each(v6, |of| insert(Ipv6Addr::from(of.first).into(), &of))?;
    Ok(writer.finish())
}
