//! The user's bandwidth limits.

use driftless_domain::{
    Domain,
    bandwidth::{self, Limits},
};
use poem::web::Data;
use poem_openapi::{Object, OpenApi, payload::Json};

use super::Tag;
use crate::{bearer::Bearer, body::JsonBody, problem::ApiError};

/// How fast the user's bytes may flow, in each process of the server.
#[derive(Object)]
struct BandwidthLimit {
    /// Bytes a second to the server, at least 1; null is unlimited.
    upload_speed_limit: Option<i64>,
    /// Bytes a second from the server, at least 1; null is unlimited.
    download_speed_limit: Option<i64>,
    /// Whether the limits hold in the throttle hours only; otherwise they hold always.
    #[oai(default)]
    throttle_enabled: bool,
    /// The hour, 0 to 23, in which throttling begins, in the server's zone.
    #[oai(default)]
    throttle_start_hour: i16,
    /// The hour, 0 to 23, with which throttling ends; before the start it is the next day's, equal to it the whole day.
    #[oai(default)]
    throttle_end_hour: i16,
}

impl From<Limits> for BandwidthLimit {
    fn from(l: Limits) -> Self {
        BandwidthLimit {
            upload_speed_limit: l.upload_speed_limit,
            download_speed_limit: l.download_speed_limit,
            throttle_enabled: l.throttle_enabled,
            throttle_start_hour: l.throttle_start_hour,
            throttle_end_hour: l.throttle_end_hour,
        }
    }
}

impl From<BandwidthLimit> for Limits {
    fn from(l: BandwidthLimit) -> Self {
        Limits {
            upload_speed_limit: l.upload_speed_limit,
            download_speed_limit: l.download_speed_limit,
            throttle_enabled: l.throttle_enabled,
            throttle_start_hour: l.throttle_start_hour,
            throttle_end_hour: l.throttle_end_hour,
        }
    }
}

pub(crate) struct Bandwidth;

#[OpenApi(prefix_path = "/sync/bandwidth", tag = "Tag::Sync")]
impl Bandwidth {
    /// The limits in force
    #[oai(path = "/limit", method = "get", operation_id = "get_bandwidth_limit")]
    async fn get_bandwidth_limit(&self, auth: Bearer, domain: Data<&Domain>) -> Result<Json<BandwidthLimit>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        Ok(Json(bandwidth::get(&mut tx, &auth.0).await?.into()))
    }

    /// Set the limits
    ///
    /// All of them: a limit that is left out is unlimited afterwards. Transfers under way follow within 5 seconds.
    #[oai(path = "/limit", method = "post", operation_id = "set_bandwidth_limit")]
    async fn set_bandwidth_limit(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<BandwidthLimit>,
    ) -> Result<Json<BandwidthLimit>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let kept = bandwidth::set(&mut tx, &auth.0, body.0.into()).await?;
        tx.commit().await?;
        Ok(Json(kept.into()))
    }
}
