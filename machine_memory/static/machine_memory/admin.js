// Counts down the time that leases have left, and asks for the list again from time to time.
'use strict';
{
    const REFRESH = 15; // Seconds.

    const format = seconds => {
        const whole = Math.max(0, Math.floor(seconds));
        const two = number => String(number).padStart(2, '0');
        const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
        return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
    };

    let shownAt = performance.now();

    const countDown = () => {
        const passed = (performance.now() - shownAt) / 1000;
        for (const element of document.querySelectorAll('.mm-left')) {
            const left = Number(element.dataset.seconds) - passed;
            element.textContent = format(left);
        }
    };

    // Where there is little room, the heads of the columns are not there.
    const label = () => {
        for (const table of document.querySelectorAll('#result_list, .mm-leases')) {
            const heads = [...table.tHead.rows[0].cells].map(head => head.textContent.trim());
            for (const row of table.tBodies[0].rows) {
                heads.forEach((head, column) => {
                    if (head) {
                        row.cells[column].dataset.label = head;
                    }
                });
            }
            table.classList.add('mm-narrow');
        }
    };

    // Nobody is to lose a selection, or what they have typed.
    const isInUse = () =>
        document.hidden ||
        document.querySelector('#result_list input:checked') !== null ||
        document.activeElement.closest('#changelist-form, #changelist-search') !== null;

    const rowsOf = page => [...page.querySelectorAll('#result_list tbody tr')];
    const machineOf = row => row.querySelector('a').getAttribute('href');

    const refresh = async () => {
        if (document.querySelector('.model-heldlock.change-list') === null || isInUse()) {
            return;
        }
        const response = await fetch(window.location.href, {credentials: 'same-origin'});
        const page = new DOMParser().parseFromString(await response.text(), 'text/html');
        if (!response.ok || isInUse()) {
            return;
        }
        const [shown, fresh] = [rowsOf(document), rowsOf(page)];
        if (shown.map(machineOf).join() !== fresh.map(machineOf).join()) {
            window.location.reload();
            return;
        }
        // Django's own script knows the table and the boxes that were there when the page was loaded: they stay.
        shown.forEach((row, number) => {
            [...row.cells].forEach((cell, column) => {
                const newer = fresh[number].cells[column];
                if (cell.classList.contains('action-checkbox')) {
                    cell.querySelector('input').value = newer.querySelector('input').value;
                } else {
                    cell.replaceChildren(...newer.childNodes);
                }
            });
        });
        shownAt = performance.now();
    };

    window.addEventListener('load', () => {
        shownAt = performance.now();
        label();
        if (document.querySelector('.mm-left, .model-heldlock')) {
            setInterval(countDown, 1000);
            const refreshed = () => refresh().catch(error => console.warn('The list was not refreshed:', error));
            setInterval(refreshed, REFRESH * 1000);
            window.addEventListener('machine-memory-refresh', refreshed);
        }
    });
}
