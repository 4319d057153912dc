"""Word lists that the corpus generators draw from; all written for this corpus."""

from __future__ import annotations

from lmql_backends.tiny.corpus.lists import comma_words

FIRST_NAMES = comma_words(
    "Anna, Ben, Clara, David, Emma, Frank, Grace, Henry, Iris, Jack, Karen, Leo, Maria, Nina, Oscar, "
    "Paula, Quentin, Rosa, Samuel, Tina, Ulla, Victor, Wendy, Xavier, Yara, Zoe, Alice, Bob, Carol, "
    "Daniel, Eva, Felix, Hanna, Ivan, Julia, Kevin, Laura, Martin, Nora, Oliver, Peter, Ruth, Simon, "
    "Thomas, Ursula, Vera, William, Adam, Bella, Carlos, Diana, Erik, Fatima, George, Helen, Ingrid, "
    "James, Kate, Lucy, Michael, Natalie, Omar, Priya, Robert, Sarah, Tom, Mary, John, Paul, Linda, "
    "Susan, Mark, Elena, Hugo, Ada, Max, Sofia, Lena, Mira, Jonas, Ravi, Mei, Kenji, Aisha, Pablo, "
    "Chloe, Luca, Amir, Olga, Sven, Greta, Noah, Mia, Ella, Liam, Ethan"
)
LAST_NAMES = comma_words(
    "Smith, Jones, Brown, Miller, Davis, Wilson, Moore, Taylor, Anderson, Clark, Lewis, Walker, Hall, "
    "Young, King, Wright, Baker, Carter, Turner, Parker, Cook, Bell, Cooper, Ward, Gray, Watson, "
    "Bennett, Wood, Barnes, Ross, Fischer, Weber, Schmidt, Garcia, Lopez, Rossi, Bianchi, Novak, "
    "Kovacs, Larsen, Hansen, Olsen, Dubois, Moreau, Tanaka, Sato, Kim, Chen, Singh, Patel, Khan, "
    "Silva, Costa, Lovelace, Turing, Hopper, Curie, Newton"
)
CITIES = comma_words(
    "London, Paris, Berlin, Madrid, Rome, Vienna, Prague, Oslo, Dublin, Lisbon, Boston, Chicago, "
    "Toronto, Sydney, Tokyo, Delhi, Cairo, Lima, Denver, Seattle, Munich, Hamburg, Zurich, Geneva, "
    "Milan, Naples, Lyon, Porto, Oxford, Bristol, Leeds, York, Glasgow, Cardiff, Ghent, Utrecht, "
    "Bergen, Turku, Krakow, Graz, Linz, Basel"
)
JOBS = comma_words(
    "baker, teacher, nurse, doctor, engineer, carpenter, painter, pilot, farmer, lawyer, plumber, "
    "electrician, librarian, journalist, gardener, chef, waiter, driver, musician, singer, dentist, "
    "architect, tailor, barber, butcher, mechanic, programmer, designer, translator, photographer, "
    "actor, writer, editor, scientist, chemist, biologist, astronomer, accountant, banker, cashier, "
    "firefighter, sailor, soldier, judge, clerk, guide, coach, florist, jeweller, potter, weaver, "
    "welder, surgeon, pharmacist, therapist, vet, postman, police officer, software developer, "
    "data analyst, bus driver, project manager, sales assistant, taxi driver, truck driver"
)
PRODUCTS = comma_words(
    "lamp, chair, table, desk, sofa, kettle, toaster, blender, mirror, carpet, clock, vase, pillow, "
    "blanket, towel, backpack, suitcase, umbrella, jacket, coat, scarf, hat, shirt, dress, sweater, "
    "skirt, belt, wallet, watch, ring, necklace, bicycle, helmet, tent, guitar, violin, drum, piano, "
    "camera, phone, laptop, tablet, keyboard, mouse, monitor, printer, speaker, radio, notebook, "
    "pencil, pen, brush, hammer, drill, saw, ladder, bucket, broom, kitchen knife, frying pan, teapot, "
    "coffee mug, water bottle, office chair, bookshelf, garden hose, tennis racket, football, "
    "chess set, puzzle, doll, kite, candle, basket, bowl, plate, cup, glass, spoon, fork, headphones"
)
COLOURS = comma_words(
    "red, blue, green, yellow, black, white, brown, orange, purple, pink, grey, silver, golden, turquoise"
)
MATERIALS = comma_words("wooden, steel, glass, leather, plastic, cotton, ceramic, wool, bamboo, copper")
HOBBIES = comma_words(
    "chess, tennis, painting, cooking, hiking, swimming, reading, fishing, dancing, gardening, "
    "cycling, sailing, skiing, photography, pottery, knitting, climbing, running, yoga, football, "
    "basketball, singing, drawing"
)
COUNTRIES = comma_words(
    "Germany, France, Italy, Spain, Portugal, Norway, Sweden, Denmark, Finland, Poland, Austria, "
    "Greece, Turkey, Egypt, Kenya, Nigeria, India, China, Japan, Brazil, Chile, Peru, Canada, Mexico, "
    "Ireland, Scotland, Iceland"
)
WEATHER = comma_words("sunny, cloudy, rainy, windy, foggy, snowy, stormy, dry, humid, clear")
COMPANY_SUFFIXES = comma_words(
    "Ltd, Inc, Group, Labs, Systems, Foods, Motors, Books, Studio, Bank, Works, Media, Energy"
)
TITLE_ADJECTIVES = comma_words(
    "Silent, Golden, Broken, Hidden, Lost, Last, Secret, Long, Dark, Bright, Frozen, Burning, Empty, "
    "Wild, Quiet, Distant, Crooked, Hollow, Northern, Forgotten, Red, Blue, White, Second, Final, "
    "Little, Great, Sleeping"
)
TITLE_NOUNS = comma_words(
    "Harbour, River, Garden, Mountain, Winter, Summer, Island, Forest, Road, House, Window, Letter, "
    "Song, Train, Bridge, Storm, Ocean, Castle, Mirror, Shadow, Star, Moon, Clock, Key, Door, Tower, "
    "Desert, Voyage, Promise"
)
TAGS = comma_words(
    "new, sale, popular, fragile, heavy, light, urgent, small, large, cheap, rare, local, fresh, "
    "digital, classic, modern, public, private, open, closed, daily, weekly, basic, premium, simple, "
    "fast, slow, safe, quiet, active"
)
NUMBER_WORDS = comma_words("zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve")

CATEGORIES: dict[str, tuple[str, ...]] = {
    "fruits": comma_words(
        "apple, pear, plum, banana, orange, grape, cherry, lemon, peach, mango, melon, kiwi, fig, lime"
    ),
    "vegetables": comma_words(
        "carrot, potato, onion, tomato, cabbage, spinach, leek, pea, bean, celery, garlic, pumpkin"
    ),
    "animals": comma_words(
        "dog, cat, horse, cow, sheep, pig, goat, lion, tiger, bear, wolf, fox, rabbit, mouse, elephant"
    ),
    "birds": comma_words(
        "eagle, owl, crow, robin, swan, duck, parrot, penguin, sparrow, falcon, stork, gull"
    ),
    "colours": comma_words("red, blue, green, yellow, black, white, brown, orange, purple, pink, grey"),
    "countries": COUNTRIES,
    "cities": CITIES,
    "days": comma_words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "months": comma_words(
        "January, February, March, April, May, June, July, August, September, October, November, December"
    ),
    "sports": comma_words(
        "football, tennis, basketball, hockey, golf, boxing, rowing, swimming, cycling, rugby, cricket"
    ),
    "jobs": JOBS[:40],
    "tools": comma_words("hammer, saw, drill, wrench, pliers, screwdriver, chisel, file, axe, shovel, rake"),
    "instruments": comma_words(
        "guitar, violin, piano, drum, flute, trumpet, harp, cello, clarinet, saxophone, organ"
    ),
    "drinks": comma_words("water, tea, coffee, milk, juice, wine, beer, cocoa, lemonade"),
    "clothes": comma_words("shirt, coat, hat, scarf, dress, skirt, jacket, sweater, belt, sock, shoe, glove"),
    "furniture": comma_words("chair, table, desk, sofa, bed, shelf, cupboard, stool, bench, wardrobe"),
    "metals": comma_words("iron, gold, silver, copper, tin, lead, zinc, nickel, aluminium"),
    "planets": comma_words("Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune"),
    "trees": comma_words("oak, pine, birch, maple, beech, willow, elm, ash, cedar, fir"),
    "names": FIRST_NAMES[:40],
}
