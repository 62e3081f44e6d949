//! Who calls: the access token of a request, turned into an [`Actor`].

use driftless_domain::{Actor, Domain, sessions};
use poem::{Request, Result};
use poem_openapi::{SecurityScheme, auth};

use crate::problem::ApiError;

/// The access token that POST /api/auth/login gives, good for 15 minutes.
#[derive(SecurityScheme)]
#[oai(ty = "bearer", rename = "bearer", bearer_format = "JWT", checker = "check")]
pub(crate) struct Bearer(pub Actor);

async fn check(request: &Request, bearer: auth::Bearer) -> Result<Actor> {
    let domain = request.data::<Domain>().expect("the app hands the domain to every route");
    Ok(sessions::authenticate(domain, &bearer.token).await.map_err(ApiError::from)?)
}
