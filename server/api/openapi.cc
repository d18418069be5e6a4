#include <string>

#include "server/api/field_schema.h"
#include "server/api/json_writer.h"

namespace optserve {
namespace {

// What is the same for every build; the version, the request's fields, and what the routes of
// completions have in common go where the marks are.
constexpr std::string_view kVersionMark = "\"@VERSION@\"";
constexpr std::string_view kFieldsMark = "\"@FIELDS@\"";
constexpr std::string_view kCompletionMark = "\"@COMPLETION@\": 0";
constexpr std::string_view kCompletion =
    R"json("requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/CompletionRequest"}}}},
    "responses": {
      "200": {"description": "The choices; streamed: one chunk for each token, then data: [DONE]", "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/Completion"}},
        "text/event-stream": {"schema": {"description": "an event's data is a chunk: as Completion, but usage only where asked for; or [DONE]"}}}},
      "400": {"$ref": "#/components/responses/Error"}, "401": {"$ref": "#/components/responses/Error"},
      "404": {"$ref": "#/components/responses/Error"}, "413": {"$ref": "#/components/responses/Error"},
      "415": {"$ref": "#/components/responses/Error"}, "429": {"$ref": "#/components/responses/Error"},
      "500": {"$ref": "#/components/responses/Error"}, "503": {"$ref": "#/components/responses/Error"},
      "504": {"$ref": "#/components/responses/Error"}})json";
constexpr std::string_view kDocument = R"json({
"openapi": "3.1.0",
"info": {"title": "optserve", "version": "@VERSION@", "description": "Completions of OPT language models."},
"security": [{}, {"key": []}],
"paths": {
  "/v1/completions": {"post": {
    "operationId": "complete", "summary": "Completes prompts; with stream, by server-sent events",
    "@COMPLETION@": 0}},
  "/completions": {"post": {
    "operationId": "completeAsOpt", "summary": "The same, where Meta's OPT API had it",
    "@COMPLETION@": 0}},
  "/v1/engines/{model}/completions": {"post": {
    "operationId": "completeByEngine", "summary": "The same, with the model in the path, slashes escaped or not",
    "parameters": [{"name": "model", "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}}],
    "@COMPLETION@": 0}},
  "/v1/models": {"get": {
    "operationId": "listModels", "summary": "The model that is served",
    "responses": {
      "200": {"description": "A list of one", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Models"}}}},
      "401": {"$ref": "#/components/responses/Error"}, "503": {"$ref": "#/components/responses/Error"}}}},
  "/v1/capabilities": {"get": {
    "operationId": "capabilities", "summary": "Every field that is honoured, its bounds, and the limits in force",
    "responses": {
      "200": {"description": "Fields as JSON Schemas", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Capabilities"}}}},
      "401": {"$ref": "#/components/responses/Error"}, "503": {"$ref": "#/components/responses/Error"}}}},
  "/tokenize": {"post": {
    "operationId": "tokenize", "summary": "Text to token ids",
    "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TokenizeRequest"}}}},
    "responses": {
      "200": {"description": "The ids", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Tokens"}}}},
      "400": {"$ref": "#/components/responses/Error"}, "401": {"$ref": "#/components/responses/Error"},
      "404": {"$ref": "#/components/responses/Error"}, "413": {"$ref": "#/components/responses/Error"},
      "415": {"$ref": "#/components/responses/Error"}, "503": {"$ref": "#/components/responses/Error"}}}},
  "/detokenize": {"post": {
    "operationId": "detokenize", "summary": "Token ids to text",
    "requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/DetokenizeRequest"}}}},
    "responses": {
      "200": {"description": "The text", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Text"}}}},
      "400": {"$ref": "#/components/responses/Error"}, "401": {"$ref": "#/components/responses/Error"},
      "404": {"$ref": "#/components/responses/Error"}, "413": {"$ref": "#/components/responses/Error"},
      "415": {"$ref": "#/components/responses/Error"}, "503": {"$ref": "#/components/responses/Error"}}}},
  "/tokenizer_info": {"get": {
    "operationId": "tokenizerInfo", "summary": "Special tokens and size of the vocabulary",
    "responses": {
      "200": {"description": "The tokenizer", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/TokenizerInfo"}}}},
      "400": {"$ref": "#/components/responses/Error"}, "401": {"$ref": "#/components/responses/Error"},
      "503": {"$ref": "#/components/responses/Error"}}}},
  "/openapi.json": {"get": {
    "operationId": "openapi", "summary": "This document", "security": [{}],
    "responses": {"200": {"description": "OpenAPI 3.1", "content": {"application/json": {"schema": {"type": "object"}}}}}}},
  "/": {"get": {
    "operationId": "playground", "summary": "The playground: a page to try the model with", "security": [{}],
    "responses": {"200": {"$ref": "#/components/responses/Page"}, "304": {"description": "It is as If-None-Match has it"}}}},
  "/docs": {"get": {
    "operationId": "docs", "summary": "This document as a page", "security": [{}],
    "responses": {"200": {"$ref": "#/components/responses/Page"}, "304": {"description": "It is as If-None-Match has it"}}}},
  "/livez": {"get": {
    "operationId": "livez", "summary": "Whether the process answers", "security": [{}],
    "responses": {"200": {"description": "It does", "content": {"text/plain": {"schema": {"type": "string"}}}}}}},
  "/readyz": {"get": {
    "operationId": "readyz", "summary": "Whether completions are served", "security": [{}],
    "responses": {
      "200": {"description": "They are", "content": {"text/plain": {"schema": {"type": "string"}}}},
      "503": {"$ref": "#/components/responses/Error"}}}},
  "/health": {"get": {
    "operationId": "health", "summary": "The same as /readyz", "security": [{}],
    "responses": {
      "200": {"description": "They are", "content": {"text/plain": {"schema": {"type": "string"}}}},
      "503": {"$ref": "#/components/responses/Error"}}}},
  "/ping": {"get": {
    "operationId": "ping", "summary": "The same as /readyz", "security": [{}],
    "responses": {
      "200": {"description": "They are", "content": {"text/plain": {"schema": {"type": "string"}}}},
      "503": {"$ref": "#/components/responses/Error"}}}},
  "/metrics": {"get": {
    "operationId": "metrics", "summary": "For Prometheus", "security": [{}],
    "responses": {"200": {"description": "Text format 0.0.4", "content": {"text/plain": {"schema": {"type": "string"}}}}}}},
  "/debug/steps": {"get": {
    "operationId": "debugSteps", "summary": "The engines' last steps, and where the time of each went",
    "responses": {
      "200": {"description": "Oldest first; of each engine the last 1024 at most", "content": {"application/json": {"schema": {
        "type": "object", "required": ["steps"], "properties": {"steps": {"type": "array", "items": {
          "type": "object", "required": ["step", "replica", "begin_ns", "tokens", "sequences", "phase_ns",
            "weight_bytes", "kv_bytes", "weight_flops", "attention_flops"], "properties": {
            "step": {"type": "integer"}, "replica": {"type": "integer"},
            "begin_ns": {"type": "integer", "description": "on the machine's monotonic clock"},
            "tokens": {"type": "integer", "description": "computed"},
            "sequences": {"type": "integer"},
            "phase_ns": {"type": "object", "additionalProperties": {"type": "integer"},
              "description": "nanoseconds by phase; together the step"},
            "weight_bytes": {"type": "number", "description": "this and the next three: what the step could not do without"},
            "kv_bytes": {"type": "number"}, "weight_flops": {"type": "number"}, "attention_flops": {"type": "number"}}}}}}}}},
      "401": {"$ref": "#/components/responses/Error"}, "503": {"$ref": "#/components/responses/Error"}}}},
  "/version": {"get": {
    "operationId": "version", "summary": "The program's version", "security": [{}],
    "responses": {"200": {"description": "The version", "content": {"application/json": {"schema": {
      "type": "object", "required": ["version"], "properties": {"version": {"type": "string"}}}}}}}}}
},
"components": {
  "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "Only where the server has API keys"}},
  "responses": {"Error": {"description": "What is wrong, the limit, and what to do", "content": {
    "application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}},
    "Page": {"description": "A page for people", "content": {"text/html": {"schema": {"type": "string"}}}}},
  "schemas": {
    "CompletionRequest": {"type": "object", "required": ["prompt"], "additionalProperties": false, "properties": "@FIELDS@"},
    "Completion": {
      "type": "object", "required": ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"], "properties": {
        "id": {"type": "string"}, "object": {"const": "text_completion"}, "created": {"type": "integer"},
        "model": {"type": "string"}, "system_fingerprint": {"type": ["string", "null"]},
        "choices": {"type": "array", "items": {"$ref": "#/components/schemas/Choice"}},
        "usage": {"$ref": "#/components/schemas/Usage"}}},
    "Choice": {
      "type": "object", "required": ["index", "text", "logprobs", "finish_reason", "stop_reason"], "properties": {
        "index": {"type": "integer", "minimum": 0}, "text": {"type": "string"},
        "logprobs": {"anyOf": [{"type": "null"}, {"$ref": "#/components/schemas/Logprobs"}]},
        "finish_reason": {"enum": ["stop", "length", null]},
        "stop_reason": {"type": ["string", "integer", "null"], "description": "the stop string, or the stop token that is not the end-of-sequence token"},
        "token_ids": {"type": "array", "items": {"type": "integer"}},
        "prompt_token_ids": {"type": "array", "items": {"type": "integer"}},
        "prompt_logprobs": {"type": "array", "items": {"anyOf": [{"type": "null"}, {"type": "object", "additionalProperties": {
          "type": "object", "required": ["logprob", "decoded_token"], "properties": {
            "logprob": {"type": "number"}, "decoded_token": {"type": "string"}}}}]}}}},
    "Logprobs": {
      "type": "object", "required": ["tokens", "token_logprobs", "top_logprobs", "text_offset"], "properties": {
        "tokens": {"type": "array", "items": {"type": "string"}},
        "token_logprobs": {"type": "array", "items": {"type": ["number", "null"]}},
        "top_logprobs": {"type": "array", "items": {"type": ["object", "null"], "additionalProperties": {"type": "number"}}},
        "text_offset": {"type": "array", "items": {"type": "integer"}, "description": "in code points, into the choice's text"}}},
    "Usage": {
      "type": "object", "required": ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"], "properties": {
        "prompt_tokens": {"type": "integer"}, "completion_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"},
        "prompt_tokens_details": {"type": "object", "required": ["cached_tokens"], "properties": {"cached_tokens": {"type": "integer"}}}}},
    "Models": {
      "type": "object", "required": ["object", "data"], "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": {
          "type": "object", "required": ["id", "object", "created", "owned_by", "max_model_len"], "properties": {
            "id": {"type": "string"}, "object": {"const": "model"}, "created": {"type": "integer"},
            "owned_by": {"type": "string"}, "max_model_len": {"type": "integer"}}}}}},
    "Capabilities": {
      "type": "object", "required": ["object", "version", "model", "limits", "fields"], "properties": {
        "object": {"const": "capabilities"}, "version": {"type": "string"}, "model": {"type": "string"},
        "limits": {"type": "object", "additionalProperties": {"type": "integer"}},
        "fields": {"type": "object", "additionalProperties": {"type": "object"}}}},
    "TokenizeRequest": {
      "type": "object", "required": ["prompt"], "additionalProperties": false, "properties": {
        "prompt": {"type": "string"}, "add_special_tokens": {"type": ["boolean", "null"], "default": true},
        "parse_special_tokens": {"type": ["boolean", "null"], "default": true}, "model": {"type": ["string", "null"]}}},
    "Tokens": {
      "type": "object", "required": ["tokens", "count", "max_model_len"], "properties": {
        "tokens": {"type": "array", "items": {"type": "integer"}}, "count": {"type": "integer"}, "max_model_len": {"type": "integer"}}},
    "DetokenizeRequest": {
      "type": "object", "required": ["tokens"], "additionalProperties": false, "properties": {
        "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2147483647}}, "model": {"type": ["string", "null"]}}},
    "Text": {"type": "object", "required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
    "TokenizerInfo": {
      "type": "object", "required": ["bos_token", "eos_token", "pad_token", "unk_token", "vocab_size"], "properties": {
        "tokenizer_class": {"type": "string"}, "bos_token": {"type": ["string", "null"]}, "eos_token": {"type": ["string", "null"]},
        "pad_token": {"type": ["string", "null"]}, "unk_token": {"type": ["string", "null"]}, "add_bos_token": {"type": "boolean"},
        "vocab_size": {"type": "integer"}, "max_model_len": {"type": "integer"}}},
    "Error": {
      "type": "object", "required": ["error"], "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code"], "properties": {
          "message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
          "code": {"type": ["string", "null"]}}}}}
  }
}
})json";

// Wherever the mark is.
void Replace(std::string& text, std::string_view mark, std::string_view with) {
  for (size_t at = text.find(mark); at != text.npos; at = text.find(mark, at + with.size())) {
    text.replace(at, mark.size(), with);
  }
}

}  // namespace

std::string OpenApiDocument(std::string_view version) {
  std::string fields = "{";
  for (const CompletionField& field : CompletionFields()) {
    if (fields.size() > 1) fields += ",\n      ";
    AppendJsonString(fields, field.name);
    fields += ": ";
    AppendFieldSchema(fields, field);
  }
  fields += '}';
  std::string version_json;
  AppendJsonString(version_json, version);
  std::string document(kDocument);
  Replace(document, kCompletionMark, kCompletion);
  Replace(document, kVersionMark, version_json);
  Replace(document, kFieldsMark, fields);
  return document;
}

}  // namespace optserve
