//! driftless-jobs
