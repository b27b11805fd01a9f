//! How a talker's code predictor samples: the `subtalker_…` fields of an entry of `sampling_params_list`.

use crate::engine::range::{TEMPERATURE, TOP_P};
use crate::engine::sampling::SubtalkerParams;
use crate::http::errors::ApiError;
use crate::http::fields::Fields;
use crate::http::sampling_fields::{read_top_k, read_within};
use crate::http::state::StageShape;
use crate::stages::Modality;

/// The fields that [`SubtalkerOverrides::read`] understands.
pub const SUBTALKER_FIELDS: &[&str] = &["subtalker_temperature", "subtalker_top_k", "subtalker_top_p"];

/// What a request says about the code predictor; the rest stays as the pipeline has it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SubtalkerOverrides {
    /// See [`SubtalkerParams::temperature`].
    pub temperature: Option<f32>,
    /// See [`SubtalkerParams::top_k`].
    pub top_k: Option<u32>,
    /// See [`SubtalkerParams::top_p`].
    pub top_p: Option<f32>,
}

impl SubtalkerOverrides {
    /// Reads all of [`SUBTALKER_FIELDS`]. A stage that writes text has no code predictor.
    pub fn read(fields: &Fields<'_>, stage: &StageShape) -> Result<Self, ApiError> {
        if stage.output == Some(Modality::Text)
            && let Some(name) = SUBTALKER_FIELDS.iter().find(|name| fields.get(name).is_some())
        {
            let message = format!("is for stages that make codec tokens, but `{}` makes text", stage.name);
            return Err(fields.unsupported(name, message));
        }
        Ok(Self {
            temperature: read_within(fields, "subtalker_temperature", TEMPERATURE)?,
            top_k: read_top_k(fields, "subtalker_top_k")?,
            top_p: read_within(fields, "subtalker_top_p", TOP_P)?,
        })
    }

    /// Puts what is set here in the place of what `params` holds.
    pub fn apply(&self, params: &mut SubtalkerParams) {
        params.temperature = self.temperature.unwrap_or(params.temperature);
        params.top_k = self.top_k.unwrap_or(params.top_k);
        params.top_p = self.top_p.unwrap_or(params.top_p);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::testing::speaking_state;
    use serde_json::{Value, json};

    fn read(body: Value, stage: usize) -> Result<SubtalkerOverrides, String> {
        let stage = speaking_state().pipeline.stages.swap_remove(stage);
        SubtalkerOverrides::read(&Fields::new(&body, "").unwrap(), &stage).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_set_replaces_what_the_pipeline_has() {
        let mut params = SubtalkerParams::default();
        read(json!({"subtalker_temperature": 0, "subtalker_top_k": -1}), 1).unwrap().apply(&mut params);
        assert_eq!(params, SubtalkerParams { temperature: 0.0, top_k: 0, ..SubtalkerParams::default() });
    }

    #[test]
    fn values_outside_the_range_name_the_field() {
        assert!(read(json!({"subtalker_top_p": 1.5}), 1).unwrap_err().contains("`subtalker_top_p` must be"));
        assert!(read(json!({"subtalker_temperature": -1}), 1).is_err());
        assert!(read(json!({"subtalker_top_k": -2}), 1).is_err());
    }

    #[test]
    fn a_stage_that_makes_text_takes_none_of_them() {
        let complaint = read(json!({"subtalker_top_k": 5}), 0).unwrap_err();
        assert!(complaint.contains("`subtalker_top_k`") && complaint.contains("makes text"), "{complaint}");
        assert_eq!(read(json!({"subtalker_top_k": null}), 0), Ok(SubtalkerOverrides::default()));
    }
}
