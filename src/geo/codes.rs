//! The short codes of continents, countries and their parts.

use std::fmt;
use std::str::FromStr;

/// A continent, by the two letters that GeoIP databases use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Continent {
    /// Africa.
    Africa,
    /// Antarctica.
    Antarctica,
    /// Asia.
    Asia,
    /// Europe.
    Europe,
    /// North America.
    NorthAmerica,
    /// Oceania.
    Oceania,
    /// South America.
    SouthAmerica,
}

/// A country, by its two letters (ISO 3166-1 alpha-2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

/// A part of a country, by its code (ISO 3166-2), such as `US-CA`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subdivision {
    country: Country,
    /// One to three letters or digits, zeros behind them.
    part: [u8; 3],
}

/// The text is no code of this kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseCodeError {
    /// Not a continent.
    #[error("not a continent; they are AF, AN, AS, EU, NA, OC, SA")]
    Continent,
    /// Not a country.
    #[error("not a country code; it has two letters (ISO 3166-1), such as FR")]
    Country,
    /// Not a subdivision.
    #[error("not a subdivision code; it is like US-CA (ISO 3166-2)")]
    Subdivision,
}

impl Continent {
    const CODES: [(&'static str, Self); 7] = [
        ("AF", Self::Africa),
        ("AN", Self::Antarctica),
        ("AS", Self::Asia),
        ("EU", Self::Europe),
        ("NA", Self::NorthAmerica),
        ("OC", Self::Oceania),
        ("SA", Self::SouthAmerica),
    ];
}

impl Subdivision {
    /// The part `part` of `country`; `None` if it is no code.
    pub fn new(country: Country, part: &str) -> Option<Self> {
        let bytes = part.as_bytes();
        let valid = (1..=3).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_alphanumeric);
        if !valid {
            return None;
        }
        let mut code = [0; 3];
        for (to, from) in code.iter_mut().zip(bytes) {
            *to = from.to_ascii_uppercase();
        }
        Some(Self { country, part: code })
    }

    /// The country that it is a part of.
    pub fn country(self) -> Country {
        self.country
    }
}

/// All countries of ISO 3166-1, and Kosovo, which databases call XK.
const COUNTRIES: &str = "\
    ADAEAFAGAIALAMAOAQARASATAUAWAXAZBABBBDBEBFBGBHBIBJBLBMBNBOBQBRBSBTBVBWBYBZCACCCDCFCGCHCICK\
    CLCMCNCOCRCUCVCWCXCYCZDEDJDKDMDODZECEEEGEHERESETFIFJFKFMFOFRGAGBGDGEGFGGGHGIGLGMGNGPGQGRGS\
    GTGUGWGYHKHMHNHRHTHUIDIEILIMINIOIQIRISITJEJMJOJPKEKGKHKIKMKNKPKRKWKYKZLALBLCLILKLRLSLTLULV\
    LYMAMCMDMEMFMGMHMKMLMMMNMOMPMQMRMSMTMUMVMWMXMYMZNANCNENFNGNINLNONPNRNUNZOMPAPEPFPGPHPKPLPM\
    PNPRPSPTPWPYQARERORSRURWSASBSCSDSESGSHSISJSKSLSMSNSOSRSSSTSVSXSYSZTCTDTFTGTHTJTKTLTMTNTOTR\
    TTTVTWTZUAUGUMUSUYUZVAVCVEVGVIVNVUWFWSXKYEYTZAZMZW";

impl Country {
    /// What is wrong with the code where there is no such country, so that no client is in it.
    pub fn doubt(self) -> Option<String> {
        if COUNTRIES.as_bytes().chunks_exact(2).any(|code| *code == self.0) {
            return None;
        }
        let meant = if self.0 == *b"UK" { "; the United Kingdom is GB" } else { "" };
        Some(format!("ISO 3166-1 has no country {self}, so no client is there{meant}"))
    }
}

impl FromStr for Continent {
    type Err = ParseCodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::CODES.iter().find(|(code, _)| code.eq_ignore_ascii_case(text));
        found.map(|(_, continent)| *continent).ok_or(ParseCodeError::Continent)
    }
}

impl FromStr for Country {
    type Err = ParseCodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.as_bytes() {
            [a, b] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => {
                Ok(Self([a.to_ascii_uppercase(), b.to_ascii_uppercase()]))
            }
            _ => Err(ParseCodeError::Country),
        }
    }
}

impl FromStr for Subdivision {
    type Err = ParseCodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (country, part) = text.split_once('-').ok_or(ParseCodeError::Subdivision)?;
        let country = country.parse().map_err(|_| ParseCodeError::Subdivision)?;
        Self::new(country, part).ok_or(ParseCodeError::Subdivision)
    }
}

impl fmt::Display for Continent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::CODES.iter().find(|(_, continent)| continent == self);
        f.write_str(found.map_or("", |(code, _)| code))
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(str::from_utf8(&self.0).unwrap_or(""))
    }
}

impl fmt::Display for Subdivision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = str::from_utf8(&self.part).unwrap_or("");
        write!(f, "{}-{}", self.country, part.trim_end_matches('\0'))
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Subdivision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
