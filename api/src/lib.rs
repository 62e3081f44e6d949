//! driftless-api
