// build: freestanding
// A program without any library: reads argc from its first stack, says hello, exits with argc.
    .globl _start
    .text
_start:
    mov (%rsp), %r12            // argc
    mov $1, %eax                // write
    mov $1, %edi
    lea text(%rip), %rsi
    mov $(text_end - text), %edx
    syscall
    mov $60, %eax               // exit
    mov %r12d, %edi
    syscall
    hlt
    .section .rodata
text:
    .ascii "hello from a bare start\n"
text_end:
    .section .note.GNU-stack, "", @progbits
