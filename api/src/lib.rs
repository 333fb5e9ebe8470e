//! North and south contract: intent objects, host program, protobuf, OpenAPI
