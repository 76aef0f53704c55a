// The tokens of a module, read one after the other.
#pragma once

#include <string>
#include <vector>

#include "lexer.hpp"

namespace softgpu {

class TokenStream {
 public:
    explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

    bool at_end() const { return at_ >= tokens_.size(); }
    int line() const { return at_end() ? 0 : tokens_[at_].line; }
    const std::string& current() const;
    const std::string& peek(size_t ahead) const;  // empty beyond the end
    std::string take();
    void expect(const std::string& text);
    bool accept(const std::string& text);
    long number();
    void skip_line();
    void skip_past(const std::string& text);
    [[noreturn]] void fail(const std::string& what) const;  // throws PtxError

 private:
    std::vector<Token> tokens_;
    size_t at_ = 0;
};

}  // namespace softgpu
