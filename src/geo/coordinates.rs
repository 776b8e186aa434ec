//! Points on Earth, and how far apart they are.

/// A point on Earth, in millionths of a degree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Coordinates {
    latitude: i32,
    longitude: i32,
}

/// Mean radius of the Earth in kilometres (IUGG).
const EARTH_RADIUS_KM: f64 = 6371.0088;

impl Coordinates {
    /// The point at these degrees north and east; `None` if there is no such point.
    pub fn new(latitude: f64, longitude: f64) -> Option<Self> {
        let valid = latitude.abs() <= 90.0 && longitude.abs() <= 180.0;
        valid.then(|| Self { latitude: micro(latitude), longitude: micro(longitude) })
    }

    /// Degrees north of the equator.
    pub fn latitude(self) -> f64 {
        f64::from(self.latitude) / 1e6
    }

    /// Degrees east of Greenwich.
    pub fn longitude(self) -> f64 {
        f64::from(self.longitude) / 1e6
    }

    /// The great-circle distance in whole kilometres, by the haversine formula: what decides is
    /// an integer, so that two machines decide alike.
    pub fn distance_km(self, other: Self) -> u32 {
        let (lat_a, lat_b) = (self.latitude().to_radians(), other.latitude().to_radians());
        let half_lat = (lat_b - lat_a) / 2.0;
        let half_lon = (other.longitude() - self.longitude()).to_radians() / 2.0;
        let squared = half_lat.sin().powi(2) + lat_a.cos() * lat_b.cos() * half_lon.sin().powi(2);
        let distance = 2.0 * EARTH_RADIUS_KM * squared.sqrt().min(1.0).asin();
        whole(distance)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most 180 million, which fits")]
fn micro(degrees: f64) -> i32 {
    (degrees * 1e6).round() as i32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and half the Earth's circumference"
)]
fn whole(kilometres: f64) -> u32 {
    kilometres.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_atlas() {
        let at = |lat, lon| Coordinates::new(lat, lon).unwrap();
        let (paris, new_york) = (at(48.8566, 2.3522), at(40.7128, -74.0060));
        assert_eq!(paris.distance_km(new_york), 5837);
        assert_eq!(new_york.distance_km(paris), 5837);
        assert_eq!(paris.distance_km(paris), 0);
        assert_eq!(at(0.0, 0.0).distance_km(at(0.0, 180.0)), 20015);
        // Across the date line it is not far from Fiji to Samoa.
        assert!(at(-17.7, 178.0).distance_km(at(-13.8, -172.0)) < 1200);
    }

    #[test]
    fn there_is_no_place_beyond_the_poles() {
        assert_eq!(Coordinates::new(90.1, 0.0), None);
        assert_eq!(Coordinates::new(0.0, -180.1), None);
        assert_eq!(Coordinates::new(f64::NAN, 0.0), None);
    }
}
