//! driftless-domain
