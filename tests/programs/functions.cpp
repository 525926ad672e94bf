// C++ functions to probe: overloads, templates, and functions that are left by exceptions.
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unistd.h>

#define FUNCTION __attribute__((noinline, noclone, used))

namespace shop {

struct Cart {
    int items = 0;
    FUNCTION int add(int number);
    FUNCTION int add(const char *name);
};

int Cart::add(int number) {
    if (number == 3)
        throw std::runtime_error("three");
    items += number;
    return items;
}

int Cart::add(const char *name) {
    items += (int)std::strlen(name);
    return items;
}

FUNCTION int by_reference(const std::string &text, int number) { return number + (int)text.size(); }
FUNCTION int by_value(std::string text) { return (int)text.size(); }
FUNCTION int of_view(int number, std::string_view text) { return number + (int)text.size(); }
FUNCTION std::string label(int number) { return "label number " + std::to_string(number); }

} // namespace shop

int main(int argc, char **argv) {
    if (argc < 2 || !std::strcmp(argv[1], "idle"))
        for (;;)
            pause();
    shop::Cart cart;
    for (int i = 2; i < 5; i++)
        try {
            cart.add(i);
        } catch (const std::exception &) {
        }
    cart.add("tea");
    std::string text = "green tea, black tea and mint";
    volatile int lengths = shop::by_reference("tea", 1);
    lengths = shop::by_reference(text, 2);
    lengths = shop::by_value(text);
    lengths = shop::of_view(3, std::string_view(text).substr(11, 9));
    lengths = (int)shop::label(argc + 5).size();
    return cart.items == 9 ? 0 : 1;
}
