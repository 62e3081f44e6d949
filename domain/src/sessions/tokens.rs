//! Access tokens: JWTs of one pinned algorithm, and the keys that sign them.
//!
//! Invariant: keys come from DRIFTLESS_JWT_SECRET, or were made once and are kept in Postgres, so that all processes share
//! them. The newest signs, each is found by its kid. Expiry is judged by the caller, on the clock that all processes share.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{ACCESS_SECONDS, Error};
use crate::Domain;

const ALGORITHM: Algorithm = Algorithm::HS256;
const ISSUER: &str = "driftless";
const AUDIENCE: &str = "driftless-api";
const KIND: &str = "access";

/// What an access token says.
#[derive(Serialize, Deserialize)]
pub(super) struct Claims {
    iss: String,
    aud: String,
    typ: String,
    /// The user's id.
    pub sub: String,
    /// The session.
    pub sid: Uuid,
    iat: i64,
    /// Seconds since 1970 at which it ends.
    pub exp: i64,
}

/// A key with the id that tokens name it by.
pub(super) struct Key {
    kid: String,
    encoding: EncodingKey,
    decoding: DecodingKey,
}

impl Key {
    fn new(kid: String, secret: &[u8]) -> Self {
        Key { kid, encoding: EncodingKey::from_secret(secret), decoding: DecodingKey::from_secret(secret) }
    }

    /// An access token for this session, good for 15 minutes from `now`.
    pub fn sign(&self, user_id: i64, session: Uuid, now: DateTime<Utc>) -> Result<String, Error> {
        let iat = now.timestamp();
        let claims = Claims {
            iss: ISSUER.into(),
            aud: AUDIENCE.into(),
            typ: KIND.into(),
            sub: user_id.to_string(),
            sid: session,
            iat,
            exp: iat + ACCESS_SECONDS,
        };
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(ALGORITHM) };
        jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(Error::Signing)
    }
}

/// The keys that this process knows, the newest first.
#[derive(Default)]
pub(super) struct Keys(Mutex<Option<(Arc<Vec<Arc<Key>>>, Instant)>>);

impl Keys {
    fn known(&self) -> Option<(Arc<Vec<Arc<Key>>>, Instant)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, keys: Vec<Arc<Key>>) -> Arc<Vec<Arc<Key>>> {
        let keys = Arc::new(keys);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((keys.clone(), Instant::now()));
        keys
    }
}

/// The key that signs.
pub(super) async fn signing_key(domain: &Domain) -> Result<Arc<Key>, Error> {
    let keys = match domain.sessions().keys.known() {
        Some((keys, _)) => keys,
        None => load(domain).await?,
    };
    Ok(keys.first().expect("loading makes a key where there is none").clone())
}

/// Reads a token whose signature, issuer, audience and kind are right. Its expiry is for the caller to judge.
pub(super) async fn read(domain: &Domain, token: &str) -> Result<Claims, Error> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| Error::TokenInvalid)?;
    let kid = header.kid.ok_or(Error::TokenInvalid)?;
    let key = key_named(domain, &kid).await?.ok_or(Error::TokenInvalid)?;
    let mut validation = Validation::new(ALGORITHM);
    validation.validate_exp = false;
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    let data = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation).map_err(|_| Error::TokenInvalid)?;
    if data.claims.typ != KIND {
        return Err(Error::TokenInvalid);
    }
    Ok(data.claims)
}

/// The key of this id. An unknown one may be new, so the table is read again, but not for each bad token.
async fn key_named(domain: &Domain, kid: &str) -> Result<Option<Arc<Key>>, Error> {
    const READ_AGAIN: Duration = Duration::from_secs(5);
    let find = |keys: &[Arc<Key>]| keys.iter().find(|k| k.kid == kid).cloned();
    if let Some((keys, read)) = domain.sessions().keys.known() {
        let found = find(&keys);
        if found.is_some() || read.elapsed() < READ_AGAIN {
            return Ok(found);
        }
    }
    Ok(find(&load(domain).await?))
}

async fn load(domain: &Domain) -> Result<Arc<Vec<Arc<Key>>>, Error> {
    let keys = match &domain.settings().jwt_secret {
        Some(secret) => {
            let secret = secret.reveal().as_bytes();
            // Names the key without telling anything of it: another secret has another name.
            let kid = hex::encode(&Sha256::new().chain_update("driftless kid\0").chain_update(secret).finalize()[..8]);
            vec![Arc::new(Key::new(kid, secret))]
        }
        None => from_table(domain).await?,
    };
    Ok(domain.sessions().keys.learn(keys))
}

/// The keys in the table, of which the first process to look makes the first.
async fn from_table(domain: &Domain) -> Result<Vec<Arc<Key>>, Error> {
    let mut tx = domain.begin_system().await?;
    let mut made = false;
    loop {
        let rows: Vec<(String, Vec<u8>)> =
            sqlx::query_as("select kid, secret from signing_keys order by created_at desc, kid")
                .fetch_all(&mut *tx)
                .await?;
        if !rows.is_empty() {
            tx.commit().await?;
            return Ok(rows.into_iter().map(|(kid, secret)| Arc::new(Key::new(kid, &secret))).collect());
        }
        assert!(!made, "a key that was just inserted can be read");
        made = true;
        sqlx::query("select pg_advisory_xact_lock(hashtextextended('driftless.signing_keys', 0))")
            .execute(&mut *tx)
            .await?;
        sqlx::query("insert into signing_keys (kid, secret) select $1, $2 where not exists (select from signing_keys)")
            .bind(hex::encode(rand::random::<[u8; 8]>()))
            .bind(rand::random::<[u8; 32]>().to_vec())
            .execute(&mut *tx)
            .await?;
    }
}

/// A refresh token: 256 random bits.
pub(super) fn random_token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}
