//! What keeps a role from exporting its traces: always a setting, never an absent collector.

use opentelemetry_otlp::ExporterBuildError;

use crate::settings::SettingsError;

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A variable leads to something unusable.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The exporter cannot be made.
    #[error("cannot export traces: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// The connection cannot be prepared.
    #[error("cannot export traces: {0}")]
    Transport(#[from] tonic::transport::Error),
}
