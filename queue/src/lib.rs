//! driftless-queue
