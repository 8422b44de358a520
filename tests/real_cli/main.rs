//! Whole turns of installed agent CLIs through the real daemon, against a scripted model service.
//!
//! Opt-in: `cargo test --test real_cli -- --ignored real_cli`. A CLI is looked for on PATH or where
//! `BELLHOP_CLAUDE_BIN`, `BELLHOP_CODEX_BIN`, `BELLHOP_GEMINI_BIN`, `BELLHOP_KIMI_CLI_BIN` and
//! `BELLHOP_HERMES_AGENT_BIN` point, `claude-agent-acp` on PATH or where `BELLHOP_TEST_CLAUDE_AGENT_ACP_BIN` points, the
//! older Kimi (1.51 or before) where `BELLHOP_TEST_KIMI_LEGACY_BIN` points; without it, or without python3, its tests
//! say so and pass. No credentials are used. Nothing leaves the machine where a network namespace can be made; elsewhere
//! that rests on the settings of the CLI.

mod acp;
mod cli;
mod kit;
mod turns;

#[path = "../support/mod.rs"]
mod support;

use cli::Cli;
use kit::isolated;

macro_rules! real {
    ($($module:ident $tests:ident $cli:expr => $($test:ident)*;)*) => {$(
        mod $module {
            use super::*;
            $(
                #[test]
                #[ignore = "needs an installed agent CLI"]
                fn $test() {
                    let name = concat!(stringify!($module), "::", stringify!($test));
                    isolated(name, $cli, $tests::$test);
                }
            )*
        }
    )*};
}

real! {
    real_cli_claude_code turns Cli::Claude =>
        a_conversation_goes_on_in_one_session a_tool_is_seen_and_its_result_is_used failures_have_a_class
        a_cancelled_turn_leaves_nothing_and_the_session_goes_on a_turn_out_of_time_leaves_nothing
        a_killed_daemon_repeats_the_turn_in_its_session a_lost_session_is_replaced
        options_and_commands_are_text a_long_prompt_arrives strangers_words_are_text
        a_refused_key_ends_the_turn_soon a_wrapper_may_set_the_key;
    real_cli_codex turns Cli::Codex =>
        a_conversation_goes_on_in_one_session a_tool_is_seen_and_its_result_is_used failures_have_a_class
        a_cancelled_turn_leaves_nothing_and_the_session_goes_on a_turn_out_of_time_leaves_nothing
        a_killed_daemon_repeats_the_turn_in_its_session a_lost_session_is_replaced
        options_and_commands_are_text a_long_prompt_arrives strangers_words_are_text;
    real_cli_gemini turns Cli::Gemini =>
        a_conversation_goes_on_in_one_session a_tool_is_seen_and_its_result_is_used failures_have_a_class
        a_cancelled_turn_leaves_nothing_and_the_session_goes_on a_turn_out_of_time_leaves_nothing
        a_killed_daemon_repeats_the_turn_in_its_session a_lost_session_is_replaced
        options_and_commands_are_text a_long_prompt_arrives strangers_words_are_text;
    real_cli_kimi turns Cli::Kimi =>
        a_conversation_goes_on_in_one_session a_tool_is_seen_and_its_result_is_used failures_have_a_class
        a_cancelled_turn_leaves_nothing a_turn_out_of_time_leaves_nothing a_killed_daemon_repeats_the_turn
        a_lost_session_is_replaced options_and_commands_are_text a_prompt_that_is_too_long_is_refused
        strangers_words_are_text;
    real_cli_kimi_legacy turns Cli::KimiLegacy =>
        a_conversation_goes_on_in_one_session a_tool_is_seen_and_its_result_is_used failures_have_a_class
        a_cancelled_turn_leaves_nothing a_turn_out_of_time_leaves_nothing options_and_commands_are_text
        a_prompt_that_is_too_long_is_refused strangers_words_are_text;
    real_cli_hermes acp Cli::Hermes =>
        a_turn_is_answered_and_the_session_goes_on a_tool_is_seen_and_its_result_is_used
        an_unknown_session_is_replaced a_cancelled_tool_leaves_nothing a_refused_key_has_a_class;
    real_cli_acp_kimi acp Cli::AcpKimi =>
        a_turn_is_answered_and_the_session_goes_on a_tool_is_seen_and_its_result_is_used
        an_unknown_session_is_replaced a_cancelled_tool_leaves_nothing a_refused_key_has_a_class;
    real_cli_acp_gemini acp Cli::AcpGemini =>
        a_turn_is_answered_and_the_session_goes_on a_tool_is_seen_and_its_result_is_used
        an_unknown_session_is_replaced a_cancelled_tool_leaves_nothing a_refused_key_has_a_class;
    real_cli_acp_claude acp Cli::AcpClaude =>
        a_turn_is_answered_and_the_session_goes_on a_tool_is_seen_and_its_result_is_used
        an_unknown_session_is_replaced a_cancelled_tool_leaves_nothing a_refused_key_has_a_class;
}
