//! Families of vLLM-Omni and vLLM that this server does not have, because it does not have what they tell of.

/// Families that are left out together.
#[derive(Debug)]
pub struct LeftOut {
    /// Why.
    pub reason: &'static str,
    /// Their names there.
    pub families: &'static [&'static str],
}

/// All of them.
pub const LEFT_OUT: &[LeftOut] = &[
    LeftOut {
        reason: "nothing is moved between KV caches and other stores",
        families: &[
            "vllm_omni:kv_wait_s",
            "vllm:kv_offload_load_bytes_total",
            "vllm:kv_offload_load_time_total",
            "vllm:kv_offload_load_size",
            "vllm:kv_offload_store_bytes_total",
            "vllm:kv_offload_store_time_total",
            "vllm:kv_offload_store_size",
            "vllm:kv_offload_lookup_sync_delay_seconds",
            "vllm:kv_offload_lookup_async_delay_seconds",
            "vllm:kv_offload_allocation_failure_total",
            "vllm:kv_offload_cpu_cache_usage_perc",
            "vllm:kv_offload_cpu_cache_write_usage_perc",
            "vllm:kv_offload_cpu_cache_read_usage_perc",
            "vllm:kv_offload_cpu_allocation_size",
            "vllm:kv_offload_stores_skipped_total",
            "vllm:kv_offload_total_bytes_total",
            "vllm:kv_offload_total_time_total",
            "vllm:kv_offload_size",
            "vllm:kv_offload_tiering_lookup_sync_delay_seconds",
            "vllm:kv_offload_tiering_lookup_async_delay_seconds",
            "vllm:kv_offload_tiering_read_bytes_total",
            "vllm:kv_offload_tiering_read_time_total",
            "vllm:kv_offload_tiering_write_bytes_total",
            "vllm:kv_offload_tiering_write_time_total",
            "vllm:kv_offload_tiering_promotion_job_failures_total",
            "vllm:kv_offload_tiering_cascade_job_failures_total",
            "vllm:kv_offload_tiering_chunk_queries_total",
            "vllm:kv_offload_tiering_chunk_hits_total",
            "vllm:kv_offload_tiering_promotion_allocation_failures_total",
            "vllm:kv_offload_tiering_primary_write_usage_perc",
            "vllm:kv_offload_tiering_primary_read_usage_perc",
            "vllm:kv_offload_tiering_active_promotion_jobs",
            "vllm:kv_offload_tiering_active_cascade_jobs",
            "vllm:nixl_xfer_time_seconds",
            "vllm:nixl_post_time_seconds",
            "vllm:nixl_bytes_transferred",
            "vllm:nixl_num_descriptors",
            "vllm:nixl_num_failed_transfers_total",
            "vllm:nixl_num_failed_notifications_total",
            "vllm:nixl_num_kv_expired_reqs_total",
            "vllm:hf3fs_save_duration_seconds",
            "vllm:hf3fs_load_duration_seconds",
            "vllm:hf3fs_num_failed_save_total",
            "vllm:hf3fs_num_failed_load_total",
            "vllm:hisparse_cache_hits_total",
            "vllm:hisparse_cache_misses_total",
            "vllm:hisparse_host_to_device_bytes_total",
            "vllm:mooncake_store_operation_time_seconds",
            "vllm:mooncake_store_operation_total",
            "vllm:mooncake_store_operation_keys_total",
            "vllm:mooncake_store_operation_bytes_total",
            "vllm:mooncake_store_operation_failed_keys_total",
        ],
    },
    LeftOut {
        reason: "there is no endpoint that answers with speech alone; spoken chat answers are in the families of audio",
        families: &["vllm_omni:speech_stream_aborted_total", "vllm_omni:speech_stream_completed_total"],
    },
    LeftOut {
        reason: "there is no realtime endpoint",
        families: &[
            "vllm_omni:realtime_vad_active_sessions",
            "vllm_omni:realtime_vad_inference_latency_s",
            "vllm_omni:realtime_vad_endpoint_delay_s",
            "vllm_omni:realtime_vad_errors_total",
            "vllm:websocket_connections_active",
            "vllm:websocket_connections_total",
            "vllm:websocket_connection_duration_seconds",
        ],
    },
    LeftOut { reason: "no adapters are loaded", families: &["vllm:lora_requests_info"] },
    LeftOut {
        reason: "tokens are generated one by one, without drafts",
        families: &[
            "vllm:spec_decode_num_drafts_total",
            "vllm:spec_decode_num_draft_tokens_total",
            "vllm:spec_decode_num_accepted_tokens_total",
            "vllm:spec_decode_num_accepted_tokens_per_pos_total",
        ],
    },
    LeftOut {
        reason: "no language model works by diffusion",
        families: &[
            "vllm:diffusion_num_denoising_steps_total",
            "vllm:diffusion_num_canvas_positions_total",
            "vllm:diffusion_num_committed_tokens_total",
        ],
    },
    LeftOut { reason: "tool calls are not parsed", families: &["vllm:tool_call_parser_invocations_total"] },
    LeftOut {
        reason: "no part of the server is Python",
        families: &[
            "python_gc_objects_collected_total",
            "python_gc_objects_uncollectable_total",
            "python_gc_collections_total",
            "python_info",
        ],
    },
];
