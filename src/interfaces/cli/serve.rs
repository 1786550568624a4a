//! `roster serve`: the worker.

use std::process::ExitCode;

use super::fail;
use crate::app;
use crate::config::Settings;
use crate::telemetry;

pub(super) async fn run(settings: Settings) -> ExitCode {
    if let Err(error) = telemetry::start(&settings.log) {
        return fail(error);
    }
    match app::serve(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "cannot serve");
            ExitCode::FAILURE
        }
    }
}
