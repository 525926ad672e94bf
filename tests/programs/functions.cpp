// C++ functions to probe: overloads, templates, and functions that are left by exceptions.
#include <cstring>
#include <stdexcept>
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
    return cart.items == 9 ? 0 : 1;
}
