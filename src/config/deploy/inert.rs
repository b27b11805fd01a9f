//! Keys of vLLM-Omni's deploy files that have no effect here, each with the reason. They are accepted, and named once in
//! the log.

use super::keys::Key;

/// A stage that is no diffusion model has no use for its settings.
const DIFFUSION: &str = "it is for diffusion stages";
const OTHER_DEVICE: &str = "it is for a device that is not served here";
const GPU_MEMORY: &str = "memory is shared out by the server";
const ONE_DEVICE: &str = "a stage runs on one device";
const NOT_HERE: &str = "it is a part of vLLM that is not here";
const ALWAYS: &str = "prompts are always computed in chunks";
const THREADS: &str = "stages are threads of one process";
const WHOLE_SERVER: &str = "it is an option of the command line, for all stages";
const AS_STORED: &str = "weights are used as they are stored";
const TEXT_ONLY: &str = "there is no audio, image or video input";
const NO_WAITING: &str = "connectors do not poll";

/// At the top of a file.
pub(super) const TOP: &[Key] = &[
    ("session_mode", "every request is a session of its own"),
    ("duplex_session", "every request is a session of its own"),
    ("model_runner", NOT_HERE),
    ("active_stream_window", "every stream is decoded as its frames come"),
    ("trust_remote_code", "no code of a checkpoint is ever run"),
    ("distributed_executor_backend", THREADS),
    ("quantization", AS_STORED),
    ("enable_chunked_prefill", ALWAYS),
    ("data_parallel_size", "num_replicas is for that"),
    ("pipeline_parallel_size", ONE_DEVICE),
    ("custom_voice_dir", "voices are those of the checkpoint"),
    ("forced_aligner", "there are no word timestamps"),
];

/// In an entry of `stages`.
pub(super) const STAGE: &[Key] = &[
    ("env", THREADS),
    ("default_pooling_params", NOT_HERE),
    ("silence_ban_frames", NOT_HERE),
    ("tensor_parallel_size", ONE_DEVICE),
    ("pipeline_parallel_size", ONE_DEVICE),
    ("data_parallel_size", "num_replicas is for that"),
    ("enable_expert_parallel", ONE_DEVICE),
    ("distributed_executor_backend", THREADS),
    ("gpu_memory_utilization", GPU_MEMORY),
    ("enforce_eager", NOT_HERE),
    ("async_scheduling", NOT_HERE),
    ("enable_chunked_prefill", ALWAYS),
    ("dtype", "the type is one for the whole pipeline, at the top of the file"),
    ("quantization", AS_STORED),
    ("load_format", WHOLE_SERVER),
    ("config_format", NOT_HERE),
    ("tokenizer_mode", NOT_HERE),
    ("trust_remote_code", "no code of a checkpoint is ever run"),
    ("mm_processor_cache_gb", TEXT_ONLY),
    ("limit_mm_per_prompt", TEXT_ONLY),
    ("skip_mm_profiling", TEXT_ONLY),
    ("disable_hybrid_kv_cache_manager", NOT_HERE),
    ("mamba_ssm_cache_dtype", NOT_HERE),
    ("compilation_config", NOT_HERE),
    ("profiler_config", NOT_HERE),
    ("enable_flashinfer_autotune", NOT_HERE),
    ("moe_backend", NOT_HERE),
    ("hf_overrides", "the checkpoint's configuration is used as it is"),
    ("num_gpus", ONE_DEVICE),
    ("model_class_name", DIFFUSION),
    ("diffusion_load_format", DIFFUSION),
    ("custom_pipeline_args", DIFFUSION),
    ("diffusers_load_kwargs", DIFFUSION),
    ("diffusers_call_kwargs", DIFFUSION),
    ("max_generated_image_size", DIFFUSION),
    ("step_execution", DIFFUSION),
    ("request_batch_max_wait_ms", DIFFUSION),
    ("diffusion_streaming_output", DIFFUSION),
    ("video_output_transport", DIFFUSION),
    ("usp", DIFFUSION),
    ("ulysses_degree", DIFFUSION),
    ("ulysses_mode", DIFFUSION),
    ("ulysses_a2a_permute", DIFFUSION),
    ("ring", DIFFUSION),
    ("ring_degree", DIFFUSION),
    ("allgather_degree", DIFFUSION),
    ("cfg_parallel_size", DIFFUSION),
    ("vae_patch_parallel_size", DIFFUSION),
    ("vae_parallel_mode", DIFFUSION),
    ("text_encoder_tp_size", DIFFUSION),
    ("use_hsdp", DIFFUSION),
    ("hsdp_shard_size", DIFFUSION),
    ("hsdp_replicate_size", DIFFUSION),
    ("cache_backend", DIFFUSION),
    ("cache_config", DIFFUSION),
    ("enable_cache_dit_summary", DIFFUSION),
    ("diffusion_attention_backend", DIFFUSION),
    ("diffusion_attention_config", DIFFUSION),
    ("fa_deterministic", DIFFUSION),
    ("fastvideo_vsa_topk", DIFFUSION),
    ("diffusion_kv_cache_dtype", DIFFUSION),
    ("diffusion_kv_cache_skip_steps", DIFFUSION),
    ("diffusion_kv_cache_skip_layers", DIFFUSION),
    ("diffusion_compile_granularity", DIFFUSION),
    ("diffusion_compile_dynamic", DIFFUSION),
    ("diffusion_quantization_config", DIFFUSION),
    ("force_cutlass_fp8", DIFFUSION),
    ("disable_multithread_weight_load", DIFFUSION),
    ("enable_broadcast_weight_load", DIFFUSION),
    ("num_weight_load_threads", DIFFUSION),
    ("vae_use_slicing", DIFFUSION),
    ("vae_use_tiling", DIFFUSION),
    ("vae_fast_path", DIFFUSION),
    ("enable_cpu_offload", DIFFUSION),
    ("enable_layerwise_offload", DIFFUSION),
    ("enable_distributed_layerwise_offload", DIFFUSION),
    ("dlo_use_allgather", DIFFUSION),
    ("dlo_resident_layers", DIFFUSION),
    ("dlo_host_registration_limit_gib", DIFFUSION),
    ("diffusion_offload_config", DIFFUSION),
    ("host_weight_runtime_mode", DIFFUSION),
    ("host_weight_runtime_root", DIFFUSION),
    ("lora_path", DIFFUSION),
    ("lora_backend", DIFFUSION),
    ("lora_scale", DIFFUSION),
    ("boundary_ratio", DIFFUSION),
    ("flow_shift", DIFFUSION),
];

/// In `extra` of a connector.
pub(super) const EXTRA: &[Key] = &[
    ("codec_chunk_ramp", "windows have one first and one later size"),
    ("codec_chunk_adaptive", "windows have one first and one later size"),
    ("codec_chunk_min_frames", "windows have one first and one later size"),
    ("codec_chunk_safety_margin_ms", "windows have one first and one later size"),
    ("codec_chunk_ramp_divisor", "windows have one first and one later size"),
    ("codec_chunk_ramp_delta_min", "windows have one first and one later size"),
    ("decode_cudagraph_batch_sizes", NOT_HERE),
    ("decode_cudagraph_capture_sizes", NOT_HERE),
    ("connector_get_sleep_s", NO_WAITING),
    ("connector_get_max_wait_first_chunk", NO_WAITING),
    ("connector_get_max_wait", NO_WAITING),
    ("codec_streaming", "async_chunk decides"),
    ("shm_threshold_bytes", THREADS),
];

/// In an entry of `edges`.
pub(super) const EDGE: &[Key] = &[
    ("window_size", "a stage takes as many chunks as it has room for"),
    ("max_inflight", "a stage takes as many chunks as it has room for"),
];

/// In `default_sampling_params`.
pub(super) const SAMPLING: &[Key] = &[
    ("n", "a request says how many choices it wants"),
    ("best_of", NOT_HERE),
    ("detokenize", "text stages give text, others do not"),
    ("logprobs", "a request says whether it wants them"),
    ("prompt_logprobs", "a request says whether it wants them"),
    ("spaces_between_special_tokens", NOT_HERE),
    ("output_kind", NOT_HERE),
    ("extra_args", NOT_HERE),
];

/// In `platforms`.
pub(super) const PLATFORMS: &[Key] =
    &[("rocm", OTHER_DEVICE), ("npu", OTHER_DEVICE), ("xpu", OTHER_DEVICE), ("musa", OTHER_DEVICE)];

/// In one platform's overlay.
pub(super) const OVERLAY: &[Key] = &[("model_runner", NOT_HERE)];
