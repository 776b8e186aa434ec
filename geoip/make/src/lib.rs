//! Makes GeoIP databases in the MaxMind DB format.
