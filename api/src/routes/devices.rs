//! Devices: register, look at, change, remove.

use chrono::{DateTime, Utc};
use driftless_domain::{Domain, devices};
use poem::web::Data;
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
    types::MaybeUndefined,
};

use super::Tag;
use crate::{bearer::Bearer, body::JsonBody, problem::ApiError};

/// Who does the syncing.
#[derive(Enum, Clone, Copy, Default)]
#[oai(rename_all = "snake_case")]
enum DeviceKind {
    /// It runs a client and calls the server.
    #[default]
    Client,
    /// Storage that the server reaches by itself.
    Remote,
}

impl From<DeviceKind> for devices::DeviceKind {
    fn from(kind: DeviceKind) -> Self {
        match kind {
            DeviceKind::Client => devices::DeviceKind::Client,
            DeviceKind::Remote => devices::DeviceKind::Remote,
        }
    }
}

impl From<devices::DeviceKind> for DeviceKind {
    fn from(kind: devices::DeviceKind) -> Self {
        match kind {
            devices::DeviceKind::Client => DeviceKind::Client,
            devices::DeviceKind::Remote => DeviceKind::Remote,
        }
    }
}

/// The sort of storage of a remote.
#[derive(Enum, Clone, Copy)]
#[oai(rename_all = "snake_case")]
enum RemoteType {
    /// A folder on the server.
    Folder,
}

/// Where a remote lies.
#[derive(Object)]
struct Remote {
    /// The sort of storage.
    #[oai(rename = "type")]
    ty: RemoteType,
    /// Absolute path of the folder, below one of the folders that the server allows (DRIFTLESS_REMOTE_ROOTS).
    path: String,
}

impl From<Remote> for devices::Place {
    fn from(remote: Remote) -> Self {
        match remote.ty {
            RemoteType::Folder => devices::Place::Folder(remote.path),
        }
    }
}

impl From<devices::Place> for Remote {
    fn from(place: devices::Place) -> Self {
        let devices::Place::Folder(path) = place;
        Remote { ty: RemoteType::Folder, path }
    }
}

/// A device to register.
#[derive(Object)]
struct RegisterDevice {
    /// Your own text for it, 1 to 255 characters, unique among your devices.
    device_id: String,
    /// For people; the id when absent.
    device_name: Option<String>,
    /// Who does the syncing.
    #[oai(default)]
    kind: DeviceKind,
    /// Where a remote lies.
    remote: Option<Remote>,
    /// The folder of the tree that the device is kept in step with; the root when absent.
    base_path: Option<String>,
}

/// Whether a registration was new.
#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum RegistrationStatus {
    /// It is new.
    Registered,
    /// It was registered before, and nothing changed.
    AlreadyRegistered,
}

/// A registered device.
#[derive(Object)]
struct Registration {
    /// Your text for it.
    device_id: String,
    /// For people.
    device_name: String,
    /// Whether it is new.
    status: RegistrationStatus,
    /// Its cursor: where its change feed goes on.
    change_token: String,
}

/// A device.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct Device {
    /// Your text for it.
    device_id: String,
    /// For people.
    device_name: String,
    /// Who does the syncing.
    kind: DeviceKind,
    /// Where a remote lies.
    remote: Option<Remote>,
    /// The folder of the tree that it is kept in step with.
    base_path: String,
    /// Names that are not synced, in gitignore syntax, beside those that never are.
    ignore: Vec<String>,
    /// What it has taken in.
    cursor: String,
    /// Changes of the tree that it has not taken in.
    pending_changes: i64,
    /// Conflicts that wait for a decision.
    conflicts: i64,
    /// When it last called, or was last reached.
    last_seen_at: Option<DateTime<Utc>>,
    /// When a run of it last succeeded.
    last_sync_at: Option<DateTime<Utc>>,
    /// When it was registered.
    created_at: DateTime<Utc>,
}

impl From<devices::Device> for Device {
    fn from(device: devices::Device) -> Self {
        Device {
            device_id: device.device_id,
            device_name: device.device_name,
            kind: device.kind.into(),
            remote: device.place.map(Remote::from),
            base_path: device.base_path,
            ignore: device.ignore_rules,
            cursor: device.cursor,
            pending_changes: device.pending_changes,
            conflicts: device.conflicts,
            last_seen_at: device.last_seen_at,
            last_sync_at: device.last_sync_at,
            created_at: device.created_at,
        }
    }
}

/// A page of devices in the order of their ids.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct DevicePage {
    /// The devices.
    devices: Vec<Device>,
    /// Send it as `cursor` for the next page; absent on the last.
    next_cursor: Option<String>,
}

/// A change of a device. What is absent stays; null sets back to what a new device has.
#[derive(Object)]
struct PatchDevice {
    /// For people; null is the device's id.
    device_name: MaybeUndefined<String>,
    /// Names that are not synced, in gitignore syntax.
    ignore: MaybeUndefined<Vec<String>>,
    /// The folder of the tree that it is kept in step with; changing it starts the device anew. null is the root.
    base_path: MaybeUndefined<String>,
}

/// What a device does at the moment.
#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum DeviceActivity {
    /// Nothing.
    Idle,
    /// A run of it is queued.
    Queued,
    /// A run waits for it.
    Waiting,
    /// A run runs.
    Syncing,
    /// A run waits for approval of its deletions.
    Held,
}

impl From<devices::Activity> for DeviceActivity {
    fn from(activity: devices::Activity) -> Self {
        match activity {
            devices::Activity::Idle => DeviceActivity::Idle,
            devices::Activity::Queued => DeviceActivity::Queued,
            devices::Activity::Waiting => DeviceActivity::Waiting,
            devices::Activity::Syncing => DeviceActivity::Syncing,
            devices::Activity::Held => DeviceActivity::Held,
        }
    }
}

/// How a device stands.
#[derive(Object)]
#[oai(skip_serializing_if_is_none)]
struct DeviceStatus {
    /// Your text for it.
    device_id: String,
    /// What it does at the moment.
    status: DeviceActivity,
    /// When a run of it last succeeded.
    last_sync: Option<DateTime<Utc>>,
    /// Changes of the tree that it has not taken in.
    pending_changes: i64,
    /// Conflicts that wait for a decision.
    conflicts: i64,
    /// Its cursor.
    change_token: String,
}

#[derive(ApiResponse)]
enum DeviceDeleted {
    /// It is gone, with its schedules and runs. The files in the tree stay.
    #[oai(status = 204)]
    Done,
}

pub(crate) struct Devices;

#[OpenApi(prefix_path = "/sync", tag = "Tag::Sync")]
impl Devices {
    /// Register a device
    ///
    /// Doing it again answers the same with status `already_registered`.
    #[oai(path = "/register", method = "post", operation_id = "register_device")]
    async fn register_device(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        body: JsonBody<RegisterDevice>,
    ) -> Result<Json<Registration>, ApiError> {
        let RegisterDevice { device_id, device_name, kind, remote, base_path } = body.0;
        let new = devices::NewDevice {
            device_id,
            device_name,
            kind: kind.into(),
            place: remote.map(devices::Place::from),
            base_path,
        };
        let mut tx = domain.begin(&auth.0).await?;
        let (device, fresh) = devices::register(&mut tx, domain.settings(), &auth.0, &new).await?;
        tx.commit().await?;
        let status = if fresh { RegistrationStatus::Registered } else { RegistrationStatus::AlreadyRegistered };
        let (device_id, device_name, change_token) = (device.device_id, device.device_name, device.cursor);
        Ok(Json(Registration { device_id, device_name, status, change_token }))
    }

    /// List devices
    #[oai(path = "/devices", method = "get", operation_id = "list_devices")]
    async fn list_devices(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
        /// Devices in a page, 1 to 1000.
        #[oai(default = "super::hundred")]
        limit: Query<i64>,
    ) -> Result<Json<DevicePage>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let found = devices::list(&mut tx, &auth.0, cursor.0.as_deref(), limit.0).await?;
        let devices: Vec<Device> = found.into_iter().map(Device::from).collect();
        let next_cursor = super::next(&devices, limit.0, |d| d.device_id.clone());
        Ok(Json(DevicePage { devices, next_cursor }))
    }

    /// Look at a device
    #[oai(path = "/devices/:device_id", method = "get", operation_id = "get_device")]
    async fn get_device(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The device's id.
        device_id: Path<String>,
    ) -> Result<Json<Device>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        Ok(Json(devices::get(&mut tx, &auth.0, &device_id).await?.into()))
    }

    /// Change a device
    #[oai(path = "/devices/:device_id", method = "patch", operation_id = "patch_device")]
    async fn patch_device(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The device's id.
        device_id: Path<String>,
        body: JsonBody<PatchDevice>,
    ) -> Result<Json<Device>, ApiError> {
        let edit = devices::Edit {
            device_name: super::or_default(body.0.device_name, || device_id.0.clone()),
            ignore_rules: super::or_default(body.0.ignore, Vec::new),
            base_path: super::or_default(body.0.base_path, || "/".to_owned()),
        };
        let mut tx = domain.begin(&auth.0).await?;
        let device = devices::patch(&mut tx, &auth.0, &device_id, edit).await?;
        tx.commit().await?;
        Ok(Json(device.into()))
    }

    /// Remove a device
    #[oai(path = "/devices/:device_id", method = "delete", operation_id = "delete_device")]
    async fn delete_device(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The device's id.
        device_id: Path<String>,
    ) -> Result<DeviceDeleted, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        devices::delete(&mut tx, &auth.0, &device_id).await?;
        tx.commit().await?;
        Ok(DeviceDeleted::Done)
    }

    /// How a device stands
    #[oai(path = "/status/:device_id", method = "get", operation_id = "get_device_status")]
    async fn get_device_status(
        &self,
        auth: Bearer,
        domain: Data<&Domain>,
        /// The device's id.
        device_id: Path<String>,
    ) -> Result<Json<DeviceStatus>, ApiError> {
        let mut tx = domain.begin(&auth.0).await?;
        let device = devices::get(&mut tx, &auth.0, &device_id).await?;
        let activity = devices::activity(&mut tx, &device).await?;
        Ok(Json(DeviceStatus {
            device_id: device.device_id,
            status: activity.into(),
            last_sync: device.last_sync_at,
            pending_changes: device.pending_changes,
            conflicts: device.conflicts,
            change_token: device.cursor,
        }))
    }
}
